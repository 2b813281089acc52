# Helpers of all rules: the facts of an experiment, and the functions that name files by them.
import functools
import hashlib
import json
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from vidm.config import ConfigError, load, resolve
from vidm.data import layouts

# `tee -i`: Ctrl-C is for vidm, which saves, says where, and needs tee to be there still.
# Rules call this interpreter's own vidm, whether or not its environment is activated.
here = shlex.quote(os.path.dirname(sys.executable)).replace("{", "{{").replace("}", "}}")
shell.prefix(f"set -euo pipefail; PATH={here}:$PATH; ")

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


def rendered(wildcards):
    """The embedded sky, where the raw folder has no video."""
    facts = dataset(wildcards)
    if layouts.has_videos(facts.raw):
        return []
    raw = Path(facts.raw)
    if raw.with_name(f"{raw.name}.dvc").exists() or next(raw.rglob("*.dvc"), None):
        raise WorkflowError(f"{raw}: its videos are kept by DVC and not here; fetch them: dvc pull")
    if facts.procedural is None:
        raise WorkflowError(
            f"{facts.raw}: no video there, and datasets.{wildcards.dataset} of {PARAMS} has no 'procedural' "
            "block to render instead; put videos there"
        )
    return f"data/rendered/{wildcards.dataset}"


ENDS = 4096  # bytes read at either end of a video


@functools.cache
def listing(folder):
    """A hash of the videos in a folder: names, sizes, first and last bytes.

    Times don't count: git and `dvc checkout` set them anew. Whole files would be a second extraction.
    """
    if not layouts.has_videos(folder):
        return "none"
    digest = hashlib.sha256()
    clips = layouts.find_clips(folder)
    for clip in clips:
        known = [clip.source, clip.split, clip.cls, clip.reason]
        if not clip.reason:
            try:
                with clip.path.open("rb") as file:
                    known.append(file.read(ENDS).hex())
                    known.append(file.seek(0, os.SEEK_END))
                    file.seek(max(0, known[-1] - ENDS))
                    known.append(file.read(ENDS).hex())
            except OSError as error:
                known.append(error.strerror)
        digest.update(json.dumps(known).encode())
    return f"{len(clips)} files, {digest.hexdigest()[:16]}"


def pretrained(wildcards):
    """The start of the motion code's network, where the experiment has one."""
    motion = experiment(wildcards).motion
    if not motion.implicit or motion.spynet == "none":
        return {}
    own = motion.spynet != "basicvsr"
    return {"spynet": motion.spynet if own else "data/weights/spynet.safetensors"}


def judges(wildcards):
    """The networks that measure: I3D, for FID Inception, for an Inception score the user's classifier."""
    metrics = experiment(wildcards).metrics
    found = {"detector": "data/weights/i3d.safetensors"}
    if metrics.fid_frames:
        found["inception"] = "data/weights/inception.safetensors"
    if metrics.classifier:
        found["classifier"] = metrics.classifier
    return found


def own_protocols(wildcards):
    """The facts of the protocols that params.yaml defines and this experiment uses."""
    named = experiment(wildcards).metrics.protocols
    return {name: FACTS.protocols[name].facts() for name in named if name in FACTS.protocols}


def reports():
    """The reports that are there, by the hash of their content."""
    paths = sorted(Path("results").glob("*_fvd.json"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def shown(name):
    """As many mp4s as the contact sheet shows."""
    sampling = FACTS.experiments[name].sampling
    return [f"results/{name}/samples/video_{k:03d}.mp4" for k in range(min(sampling.sheet, sampling.videos))]


def training(part):
    """A wildcard's pattern: the experiments that train this part, and don't take another one's."""
    return "|".join(name for name, facts in FACTS.experiments.items() if not getattr(facts, f"{part}_of"))


def other(wildcards):
    """The experiment whose part this one takes."""
    return getattr(experiment(wildcards), f"{wildcards.part}_of")


wildcard_constraints:
    dataset="[a-z0-9-]+",
    experiment="[a-z0-9-]+",
