"""How good the videos are: the Fréchet video distance, its detector, statistics, protocols and reports."""

from vidm.metrics.report import FVD, fvd

__all__ = ["FVD", "fvd"]
