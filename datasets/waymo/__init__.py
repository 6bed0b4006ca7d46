"""The Waymo Open Motion Dataset, read without TensorFlow: records, scenarios, and the forecasting task on slopes."""

from geoeq.datasets.waymo.crc32c import crc32c
from geoeq.datasets.waymo.dataset import WaymoMotion
from geoeq.datasets.waymo.scenario import KINDS, Scenario, parse_scenario, read_scenarios
from geoeq.datasets.waymo.tfrecord import framed, read_records

__all__ = ["KINDS", "Scenario", "WaymoMotion", "crc32c", "framed", "parse_scenario", "read_records", "read_scenarios"]
