"""What the tests of motion capture share."""

from geoeq.datasets import MotionCapture

FRAMES = (141, 138, 165, 143, 137, 126, 148, 128, 130, 152, 128)


def load(root, protocol="run", split="train", **options):
    return MotionCapture(root, protocol, split, log=False, **options)
