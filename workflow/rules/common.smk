# Helpers of all rules: the facts of an experiment, and the functions that name files by them.
import functools
import hashlib
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from vidm.config import SPYNETS, ConfigError, check_measurable, load, resolve
from vidm.data import layouts
from vidm.errors import InputError
from vidm.pinned import SHA256

# Rules call this interpreter's own vidm, whether or not its environment is activated.
here = shlex.quote(os.path.dirname(sys.executable)).replace("{", "{{").replace("}", "}}")
# A cluster signals every process of a job at once. Signals are for vidm, which saves and says where: the shell waits
# for it, tee is there to the end, and SIGUSR1, SLURM's early warning, does not end Snakemake either.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
shell.prefix(
    f"set -euo pipefail; PATH={here}:$PATH; trap : TERM; "
    'tee() {{ trap "" INT TERM; exec tee "$@"; }}; '  # the end of a pipe is a process of its own
)

PARAMS = "params.yaml"


def facts_of_this_run():
    # These models refuse all that their schema would; Snakemake's validate() takes two seconds of every start.
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


def extracted(wildcards):
    """What decides about the frames: the embedded sky's facts only where it is used."""
    facts = dataset(wildcards)
    return facts.model_copy(update={"procedural": None}) if layouts.has_videos(facts.raw) else facts


def frames(wildcards):
    return f"data/frames/{experiment(wildcards).dataset}.h5"


CLUSTER_CORES = 4  # of a job where the profile's set-threads has nothing for its rule


def cores(wildcards):
    """Every core that snakemake was given; vidm takes no more of them than the machine has. A cluster gives none."""
    return workflow.resource_settings.cores or CLUSTER_CORES


# torchrun hands these on to its processes; SIGUSR1 is SLURM's early warning.
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def launch(wildcards, resources, threads):
    """What stands before `train`: how many processes there are is a fact of the experiment.

    It takes `resources` so that a change of it trains nothing again: Snakemake then does not count it among the facts.
    """
    running = experiment(wildcards).running
    each = running.processes // running.nodes
    if running.nodes > 1:
        return f"bash workflow/scripts/nodes.sh {running.nodes} {each} {threads}"
    if each > 1:
        return (
            f"vidm gpus --take {each} -- torchrun --standalone --nproc-per-node={each}"
            f" --signals-to-handle={SIGNALS} -m vidm.cli"
        )
    return "vidm"


def gpus(wildcards):
    """Of a training on one node. On several, `gres` asks for as many on each of them."""
    running = experiment(wildcards).running
    if running.nodes > 1:
        return 0
    return 1 if running.gpus is None else running.gpus


def on_nodes(value):
    """A resource of trainings on several nodes alone: `value` is a function of the experiment's `running`."""

    def resource(wildcards):
        running = experiment(wildcards).running
        return value(running) if running.nodes > 1 else None

    return resource


def rendered(wildcards):
    """The embedded sky, where the raw folder has no video."""
    return sky_of(wildcards.dataset)


def sky_of(name):
    facts = FACTS.dataset(name)
    if layouts.has_videos(facts.raw):
        return []
    raw = Path(facts.raw)
    if raw.with_name(f"{raw.name}.dvc").exists() or next(raw.rglob("*.dvc"), None):
        raise WorkflowError(f"{raw}: its videos are kept by DVC and not here; fetch them: dvc pull")
    if facts.procedural is None:
        raise WorkflowError(
            f"{facts.raw}: no video there, and datasets.{name} of {PARAMS} has no 'procedural' "
            "block to render instead; put videos there"
        )
    return f"data/rendered/{name}"


@functools.cache
def listing(facts):
    """A hash of the clips in a data set's folder, once in a run."""
    try:
        return layouts.listing(facts.raw, facts.layout, facts.fold)
    except InputError as error:
        raise WorkflowError(str(error)) from None


def pretrained(wildcards):
    """The start of the motion code's network, where the experiment has one."""
    motion = experiment(wildcards).motion
    if not motion.sees_flow or motion.spynet == "none":
        return {}
    name = SPYNETS.get(motion.spynet)
    return {"spynet": f"data/weights/{name}.safetensors" if name else motion.spynet}


def judges(wildcards):
    """The networks that measure: I3D, for FID Inception, for an Inception score the user's classifier."""
    check_measurable(experiment(wildcards), FACTS)
    metrics = experiment(wildcards).metrics
    found = {"detector": "data/weights/i3d.safetensors"}
    if metrics.fid_frames:
        found["inception"] = "data/weights/inception.safetensors"
    if metrics.classifier:
        found["classifier"] = metrics.classifier
    return found


def from_real_frames(wildcards):
    """The videos that show the motion network by itself, where they are asked for."""
    asked = experiment(wildcards).metrics.motion_only
    return {"given": f"results/{wildcards.experiment}/given/samples.h5"} if asked else {}


def own_protocols(wildcards):
    """The facts of the protocols that params.yaml defines and this experiment uses."""
    named = experiment(wildcards).metrics.protocols
    return {name: FACTS.protocols[name].facts() for name in named if name in FACTS.protocols}


def reports():
    """The reports that are there, by the hash of their content."""
    paths = sorted(Path("results").glob("*_fvd.json"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def ablation(wildcards):
    return FACTS.ablation(wildcards.experiment)


def cells(wildcards):
    """The reports of all cells of an experiment's ablations."""
    return [f"results/{cell.name}_fvd.json" for cell in ablation(wildcards).each(wildcards.experiment)]


# Of all ablations. They are no entries of the report: there are dozens, and figures and tables say what came out.
CELLS = {cell.name for name in FACTS.ablations for cell in FACTS.ablation(name).each(name)}


def reported(name, path, **entry):
    """An experiment's file as an entry of the report."""
    return path if name in CELLS else report(path, **entry)


def samples_of_rows(wildcards):
    """The samples of each row's first seed."""
    tables = ablation(wildcards).cells(wildcards.experiment).values()
    return [f"results/{names[0]}/samples/samples.h5" for rows in tables for names in rows.values()]


def shown(name):
    """As many mp4s as the contact sheet shows."""
    sampling = FACTS.experiment(name).sampling
    return [f"results/{name}/samples/video_{k:03d}.mp4" for k in range(min(sampling.sheet, sampling.videos))]


def sampled(name, *apart):
    """What decides about the videos; how many go together, or into how many jobs, does not, nor do those `apart`."""
    facts = FACTS.experiment(name)
    return text(
        sampling=facts.sampling.model_dump(mode="json", exclude={"group", "shards", *apart}),
        seed=facts.seed,
        frames=facts.frames,
        model_version=FACTS.model_version,
    )


def shards(name):
    """The file of a shard with a wildcard in its name, and then those of all shards."""
    sampling = FACTS.experiment(name).sampling
    n = sampling.shards
    folder = f"results/{name}/shards/{sampling.videos}-by-{n}"
    return [f"{folder}/shard_{k}_of_{n}.h5" for k in ["{shard}", *range(1, n + 1)]]


def asked_of_given(wildcards):
    """Of videos from real first frames: no more than there are samples, beside which they are measured."""
    facts = experiment(wildcards)
    most = min(facts.metrics.motion_only, facts.sampling.videos)
    return f"--most {most} --seed {(facts.sampling.seeds or (facts.seed,))[0]}"


def training(part):
    """A wildcard's pattern: the experiments that train this part, and don't take another one's."""
    return "|".join(name for name, facts in FACTS.every.items() if not getattr(facts, f"{part}_of"))


def other(wildcards):
    """The experiment whose part this one takes."""
    return getattr(experiment(wildcards), f"{wildcards.part}_of")


wildcard_constraints:
    dataset="[a-z0-9-]+",
    experiment="[a-z0-9-]+",


# Files that only a known experiment has, by which it is asked for. Those of MEASURED need its FVD.
MEASURED = (r"results/([^/]+)_(?:fvd|ablations)\.json", r"results/([^/]+)/(?:report/.+|figures/index\.html)")
NAMED = (*MEASURED, r"results/([^/]+)/(?:samples|given)/.+", r"models/([^/]+)/.+")


def impossible(words):
    """What a target of the command line lacks: an experiment of that name, or its videos. Input functions would say
    so too, but amid a traceback. A Snakefile is not told the targets; what is none of NAMED is left to Snakemake.
    """
    if {"--cleanup-metadata", "--cm"}.intersection(words):
        return None  # of files whose experiment may be gone
    for word in words:
        match = next(filter(None, (re.fullmatch(pattern, word) for pattern in NAMED)), None)
        if match is None or os.path.exists(word):
            continue
        try:
            found = FACTS.experiment(match[1])
            if match.re.pattern in MEASURED:
                check_measurable(found, FACTS)
            if word.endswith("_fvd.json") and not os.path.exists(f"data/frames/{found.dataset}.h5"):
                sky_of(found.dataset)
        except (ConfigError, WorkflowError) as error:
            return f"{word}: {error}"
    return None


if fault := impossible(sys.argv[1:]):
    raise WorkflowError(fault)
