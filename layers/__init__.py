"""Message-passing layers and the models made of them; imported as ``geoeq.layers``."""

# One file must never become two modules: isinstance would be false between the copies.
if __name__ != "geoeq.layers":
    raise ImportError(f"this folder is the package geoeq.layers: import geoeq.layers instead of {__name__}")

from geoeq.layers.egnn import EGNN, EGNNConv
from geoeq.layers.egno import EGNO
from geoeq.layers.forecast_io import ForecastIO
from geoeq.layers.forecast_models import PonitaForecast, SteerableForecast
from geoeq.layers.gaunt_conv import GauntConv
from geoeq.layers.gmn import GMN, GMNConv
from geoeq.layers.irreps_norm import IrrepsLayerNorm
from geoeq.layers.ponita import Ponita
from geoeq.layers.ponita_conv import PonitaConv, PonitaKernel
from geoeq.layers.ponita_convert import ponita_from_reference
from geoeq.layers.ponita_net import PonitaNet
from geoeq.layers.ponita_zonal import ZonalConv, ZonalKernel
from geoeq.layers.radial import RadialBasis
from geoeq.layers.rigid import rigid_parts
from geoeq.layers.rods import KeepRods, keep_lengths
from geoeq.layers.steerable_conv import SteerableConv
from geoeq.layers.steerable_net import EnergyForces, GauntNet, SteerableMPNN, SteerableNet
from geoeq.layers.temporal_conv import TemporalConv
from geoeq.layers.typed_linear import TypedLinear
from geoeq.layers.typed_mpnn import TypedConv, TypedMPNN
from geoeq.layers.vector_mlp import ResidualPathway, TypedMLP, VectorMLP

__all__ = [
    "EGNN",
    "EGNNConv",
    "EGNO",
    "EnergyForces",
    "ForecastIO",
    "GMN",
    "GMNConv",
    "GauntConv",
    "GauntNet",
    "IrrepsLayerNorm",
    "KeepRods",
    "Ponita",
    "PonitaConv",
    "PonitaForecast",
    "PonitaKernel",
    "PonitaNet",
    "RadialBasis",
    "ResidualPathway",
    "SteerableConv",
    "SteerableForecast",
    "SteerableMPNN",
    "SteerableNet",
    "TemporalConv",
    "TypedConv",
    "TypedLinear",
    "TypedMLP",
    "TypedMPNN",
    "VectorMLP",
    "ZonalConv",
    "ZonalKernel",
    "keep_lengths",
    "ponita_from_reference",
    "rigid_parts",
]
