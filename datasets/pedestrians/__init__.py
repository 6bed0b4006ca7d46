"""Pedestrians seen from above: the ETH and UCY recordings."""

from geoeq.datasets.pedestrians.dataset import Pedestrians, recordings
from geoeq.datasets.pedestrians.tracks import Tracks, WindowRows, cut_windows, read_tracks, recording

__all__ = ["Pedestrians", "Tracks", "WindowRows", "cut_windows", "read_tracks", "recording", "recordings"]
