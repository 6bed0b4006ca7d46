"""What the tests of molecular dynamics share."""

from geoeq.datasets.molecular import MolecularProtocol

SHORT = MolecularProtocol(past=3, future=(1, 4), hydrogen=True, split="time", sizes=(20, 10, 10))
