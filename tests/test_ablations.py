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
from vidm.protocols import PROTOCOLS

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
    # To carry x(n-1) it is there without the condition, too.
    assert (network.spynet is None) == ("previous" not in sees and network.facts.target == "frame")
    assert network.residual is not None  # else frame 0 is never seen


CELLS = [(name, cell) for name in PARAMS.ablations for cell in PARAMS.ablation(name).each(name) if cell.seed == 0]


@pytest.mark.parametrize("experiment, cell", CELLS, ids=[cell.name for _, cell in CELLS])
def test_a_cell_differs_from_its_default_in_the_switch_alone(experiment, cell):
    default = PARAMS.experiment(f"{experiment}-ablation-default-s0")
    a, b = (
        flat(e.model_dump(exclude={"name", "content_of", "motion_of"})) for e in (PARAMS.experiment(cell.name), default)
    )
    expected = dict(ABLATIONS[cell.presets[0]]) if cell.presets else {}
    if "motion.implicit" in expected:
        expected["motion.previous"] = False
    assert {key: a[key] for key in a if a[key] != b[key]} == expected


def test_seeds_differ_in_the_seed_alone():
    for cell in PARAMS.ablation("sky").each("sky"):
        first = PARAMS.experiment(cell.name.replace(f"-s{cell.seed}", "-s0"))
        same = {"seed": 0, **{k: getattr(first, k) for k in ("name", "content_of", "motion_of")}}
        assert PARAMS.experiment(cell.name).model_copy(update=same) == first


def test_both_paper_tables_are_there_over_three_seeds_and_two_lengths():
    sky = PARAMS.ablation("sky")
    assert len(sky.seeds) >= 3 and {t: len(rows) for t, rows in sky.tables.items()} == {"3a": 4, "3b": 4}
    for cell in sky.each("sky"):
        e = PARAMS.experiment(cell.name)
        lengths = [{**PROTOCOLS, **PARAMS.protocols}[p].frames for p in e.metrics.protocols]
        assert lengths[0] == 16 and max(lengths) == e.sampling.frames > e.frames


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
