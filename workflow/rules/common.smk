# Helpers of all rules: the facts of an experiment, and how `vidm` is called.
import json
import shlex
import sys

from snakemake.exceptions import WorkflowError
from vidm.config import ConfigError, load, resolve
from vidm.data import layouts

# This interpreter's own vidm, whether or not the environment is activated. It stays a name in the shell
# commands: a path in them would be a change of code wherever the project is moved.
VIDM = f"{shlex.quote(sys.executable)} -m vidm.cli"
PARAMS = "params.yaml"


def facts_of_this_run():
    try:
        facts = load(PARAMS)
        if resolve(config) != facts:
            raise ConfigError(
                f"{PARAMS}: --config and --configfile don't reach vidm, which reads this file; edit it instead"
            )
    except ConfigError as error:
        raise WorkflowError(str(error)) from None
    return facts


FACTS = facts_of_this_run()


def text(*facts, **more):
    """Facts as one line of JSON. As a rule's param, it reruns the rule when it changes, and nothing else does."""
    plain = {type(f).__name__.lower(): f.model_dump(mode="json") for f in facts} | more
    return json.dumps(plain, sort_keys=True)


def experiment(wildcards):
    return FACTS.experiment(wildcards.experiment)


def dataset(wildcards):
    return FACTS.dataset(wildcards.dataset)


def frames(wildcards):
    return f"data/frames/{experiment(wildcards).dataset}.h5"


def cores(wildcards):
    """Every core that snakemake was given; vidm takes no more of them than the machine has."""
    return workflow.cores or 1


def has_videos(wildcards):
    return layouts.has_videos(dataset(wildcards).raw)


wildcard_constraints:
    dataset="|".join(FACTS.datasets) or "none",
    experiment="|".join(FACTS.experiments) or "none",
    part="content|motion",
