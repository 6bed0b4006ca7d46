"""Recorded human motion: Acclaim and Biovision files, and the forecasting protocols on CMU's database."""

from geoeq.datasets.mocap.amc import read_amc
from geoeq.datasets.mocap.asf import read_asf
from geoeq.datasets.mocap.bvh import read_bvh
from geoeq.datasets.mocap.dataset import MotionCapture
from geoeq.datasets.mocap.kinematics import Rig
from geoeq.datasets.mocap.recordings import read_recordings
from geoeq.datasets.mocap.skeleton import Skeleton

__all__ = ["MotionCapture", "Rig", "Skeleton", "read_amc", "read_asf", "read_bvh", "read_recordings"]
