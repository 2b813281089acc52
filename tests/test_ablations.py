"""Every ablation of Tables 3a and 3b, as params.yaml has it: what it changes, and what it must leave alone."""

from pathlib import Path

import pytest
import torch
from torch import nn

from vidm import config
from vidm.config import Experiment
from vidm.models import trained
from vidm.models.adagn import AdaGN
from vidm.models.posgn import PosGN

PARAMS = config.load(Path(__file__).parents[1] / "params.yaml")
ROOT = Path(__file__).parents[1]

ABLATIONS = {
    "vanilla-content": {"content.constant": False, "content.diffusion.loss": "mse"},
    "without-truncation": {"content.constant": False},
    "without-robustness": {"content.diffusion.loss": "mse"},
    "vanilla-motion": {"motion.posgn": False, "motion.implicit": False},
    "without-posgn": {"motion.posgn": False},
    "without-implicit": {"motion.implicit": False},
}


def flat(facts, prefix=""):
    if isinstance(facts, dict):
        return {k: v for key, value in facts.items() for k, v in flat(value, f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): facts}


def changed(name: str, base: str) -> dict:
    a, b = (flat(PARAMS.experiment(e).model_dump(exclude={"name", "content_of"})) for e in (name, base))
    return {key: a[key] for key in a if a[key] != b[key]}


def networks(experiment: Experiment) -> dict[str, nn.Module]:
    """Small ones with the experiment's switches, every zero-initialised layer drawn so that inputs can matter."""
    small = PARAMS.experiment("smoke").content.network
    made = {}
    for part in ("content", "motion"):
        torch.manual_seed(0)
        facts = getattr(experiment, part).model_copy(update={"network": small})
        made[part] = trained.build(part, facts, 16, experiment.frames).eval()
        for p in made[part].parameters():
            if not p.any():
                nn.init.normal_(p, 0, 0.05)
    return made


def names(network: nn.Module) -> set[str]:
    return {name for name, _ in network.named_parameters()}


@torch.no_grad()
def matters(network: nn.Module) -> set[str]:
    """The inputs of a motion network that change its output."""
    g = torch.Generator().manual_seed(0)
    x_t, x_first, x_prev = torch.randn(3, 1, 3, 16, 16, generator=g)
    inputs = {"x_t": x_t, "t": torch.tensor([500]), "n": torch.tensor([3]), "first": x_first, "previous": x_prev}
    y = network(*inputs.values())
    other = {k: torch.tensor([9]) if k in ("t", "n") else -v for k, v in inputs.items()}
    return {k for k in inputs if not torch.allclose(network(*(inputs | {k: other[k]}).values()), y, atol=1e-5)}


@pytest.mark.parametrize("base", ["clevrer256", "sky"])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_its_facts_differ_in_the_switch_alone(ablation, base):
    expected = dict(ABLATIONS[ablation])
    if base == "sky" and "motion.implicit" in expected:
        expected["motion.previous"] = False  # sky shows x(n-1) itself, too: the condition is gone only without it
    assert changed(f"{base}-{ablation}", base) == expected


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_an_ablation_is_one_line(ablation):
    lines = (ROOT / "params.yaml").read_text().splitlines()
    assert (
        len([line for line in lines if line.startswith(f"  clevrer256-{ablation}: {{preset: [paper, {ablation}]")]) == 1
    )


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_it_changes_its_own_network_alone(ablation):
    base, ablated = networks(PARAMS.experiment("clevrer256")), networks(PARAMS.experiment(f"clevrer256-{ablation}"))
    other = "motion" if ablation in ("vanilla-content", "without-truncation", "without-robustness") else "content"
    theirs, ours = ablated[other].state_dict(), base[other].state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)


def test_content_ablations():
    base = names(networks(PARAMS.experiment("clevrer256"))["content"])
    for ablation in ("vanilla-content", "without-truncation"):
        network = networks(PARAMS.experiment(f"clevrer256-{ablation}"))["content"]
        assert base - names(network) == {"constant"}
        assert network.unet.encoder.conv.in_channels == 3
    assert names(networks(PARAMS.experiment("clevrer256-without-robustness"))["content"]) == base


@pytest.mark.parametrize(
    "ablation, sees, norm",
    [
        (None, {"x_t", "t", "n", "first", "previous"}, PosGN),
        ("without-posgn", {"x_t", "t", "first", "previous"}, AdaGN),
        ("without-implicit", {"x_t", "t", "n", "first"}, PosGN),
        ("vanilla-motion", {"x_t", "t", "first"}, AdaGN),
    ],
)
@pytest.mark.parametrize("base", ["clevrer256", "sky"])
def test_motion_ablations(base, ablation, sees, norm):
    """What a network can't see without a switch, and by which norm its conditions enter."""
    network = networks(PARAMS.experiment(f"{base}-{ablation}" if ablation else base))["motion"]
    assert matters(network) == sees
    norms = {type(m) for m in network.modules() if isinstance(m, PosGN | AdaGN)}
    assert norms == {norm}
    assert (network.spynet is None) == ("previous" not in sees)
    assert network.residual is not None  # else frame 0 is never seen


@pytest.mark.parametrize("experiment, form", [("sky-residual-output", "output"), ("sky-without-residual", "none")])
def test_the_other_residuals(experiment, form):
    assert changed(experiment, "sky") == {"motion.residual": form}


@pytest.mark.parametrize("name", PARAMS.experiments)
def test_every_experiment_can_be_built(name):
    e = PARAMS.experiment(name)
    with torch.device("meta"):
        for part in ("content", "motion"):
            facts, size = getattr(e, part), PARAMS.dataset(e.dataset).resolution
            network = trained.build(part, facts, size, e.frames, classes=101 if e.class_conditioning else 0)
            assert sum(p.numel() for p in network.parameters()) > 1e5
