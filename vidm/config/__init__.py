"""The facts of an experiment: params.yaml, read, merged and checked.

One file serves Snakemake (configfile), DVC (params) and this package. An experiment is a deep merge of the
presets it names, in order, and its own keys; the last one wins. What comes out is frozen.
"""

from vidm.config.combinations import check_measurable
from vidm.config.described import digest, unlike_paper
from vidm.config.facts import (
    SPYNETS,
    Content,
    Dataset,
    Diffusion,
    Experiment,
    Motion,
    Network,
    OwnOutputs,
    Params,
    Procedural,
    Running,
    Sampling,
    Training,
)
from vidm.config.reading import load, resolve, schema
from vidm.faults import ConfigError

__all__ = [
    "SPYNETS",
    "ConfigError",
    "Content",
    "Dataset",
    "Diffusion",
    "Experiment",
    "Motion",
    "Network",
    "OwnOutputs",
    "Params",
    "Procedural",
    "Running",
    "Sampling",
    "Training",
    "check_measurable",
    "digest",
    "load",
    "resolve",
    "schema",
    "unlike_paper",
]
