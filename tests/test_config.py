"""params.yaml: what is refused, in which words, and that the schema refuses no more than the models do."""

import copy
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from vidm import config
from vidm.config import ConfigError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def shipped() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def small() -> dict:
    """A whole document, valid as it is."""
    network = {"channels": 32, "multipliers": [1, 2], "attention": [8], "head_channels": 32, "groups": 8}
    return {
        "model_version": 1,
        "presets": {"small": {"content": {"network": network}, "motion": {"network": network}}},
        "datasets": {"sky": {"raw": "data/raw/sky", "resolution": 16, "procedural": {"frames": 32}}},
        "experiments": {"sky": {"preset": "small", "dataset": "sky", "frames": 16}},
    }


def changed(key: str, value) -> dict:
    """The small document with one key set; '/' separates, '-' deletes."""
    document = copy.deepcopy(small())
    *path, last = key.split("/")
    here = document
    for name in path:
        here = here.setdefault(name, {})
    if value == "-":
        del here[last]
    else:
        here[last] = value
    return document


def schema_refuses(document) -> bool:
    validator = jsonschema.Draft202012Validator(config.schema())
    return not validator.is_valid(document)


ROWS = {"seeds": [0, 1], "tables": {"3a": {"plain": []}}}
# key to set, value, what the line must say: the key as written, the value, the nearest valid one.
# The last column: does the schema refuse it too? It sees no combinations, and 1.0 is a whole number to it.
BAD = [
    ("experimets", {}, ["experimets", "did you mean 'experiments'"], True),
    ("experiments", "-", ["experiments", "missing"], True),
    ("datasets", "-", ["datasets", "missing"], True),
    ("model_version", "-", ["model_version", "missing"], True),
    ("model_version", "1", ["model_version", "'1'", "write 1"], True),
    ("experiments", 3, ["experiments", "3", "group of keys"], True),
    ("experiments", None, ["experiments", "nothing", "group of keys"], True),
    ("datasets", 3, ["datasets", "3", "group of keys"], True),
    ("datasets", [1], ["datasets", "[1]", "group of keys"], True),
    ("presets", "laptop", ["presets", "'laptop'", "group of keys"], True),
    ("presets/small", None, ["presets.small", "nothing", "known: class_conditioning, content"], True),
    ("presets/unused", {"conten": {}}, ["presets.unused.conten", "did you mean 'content'"], True),
    ("presets/unused", {"preset": "small"}, ["presets.unused.preset", "unknown key"], True),
    ("experiments/sky", 3, ["experiments.sky", "3", "group of keys"], True),
    ("experiments/sky", None, ["experiments.sky", "nothing", "group of keys"], True),
    ("experiments/Sky_1", {"dataset": "sky"}, ["experiments.Sky_1", "'Sky_1'", "nearest: 'sky-1'"], True),
    ("datasets/sky.256", {"raw": "a", "resolution": 8}, ["datasets.sky.256", "nearest: 'sky-256'"], True),
    ("experiments/sky/name", "sky", ["experiments.sky.name", "unknown key"], True),
    ("experiments/sky/dataset", "-", ["experiments.sky.dataset", "missing"], False),
    ("experiments/sky/dataset", "sku", ["experiments.sky.dataset", "'sku'", "did you mean 'sky'"], False),
    ("experiments/sky/dataset", 3, ["experiments.sky.dataset", "3", "nearest: '3' in quotes"], True),
    ("experiments/sky/preset", "smal", ["experiments.sky.preset", "'smal'", "did you mean 'small'"], False),
    (
        "experiments/sky/preset",
        ["small", "tiny"],
        ["experiments.sky.preset", "'tiny'", "known: small"],
        False,
    ),
    ("experiments/sky/preset", 3, ["experiments.sky.preset", "3", "preset's name"], True),
    ("experiments/sky/preset", [3], ["experiments.sky.preset", "3", "preset's name"], True),
    ("experiments/sky/seed", "12", ["experiments.sky.seed", "'12'", "write 12"], True),
    ("experiments/sky/seed", -1, ["experiments.sky.seed", "-1", "nearest: 0"], True),
    ("experiments/sky/seed", 1.5, ["experiments.sky.seed", "1.5", "nearest: 2"], True),
    ("experiments/sky/seed", 1.0, ["experiments.sky.seed", "1.0", "nearest: 1"], False),
    ("experiments/sky/seed", True, ["experiments.sky.seed", "true", "nearest: 0"], True),
    ("experiments/sky/seed", None, ["experiments.sky.seed", "nothing", "nearest: 0"], True),
    ("experiments/sky/content/diffusion/eta", "1e-8", ["diffusion.eta", "'1e-8'", "write 1.0e-08"], True),
    ("experiments/sky/content/diffusion/eta", -1, ["content.diffusion.eta", "-1", "nearest: 0"], True),
    ("experiments/sky/motion/training/lr", 0, ["motion.training.lr", "0", "more than 0", "2.0e-05"], True),
    ("experiments/sky/motion/training/lr", float("nan"), ["motion.training.lr", "nan", "2.0e-05"], False),
    ("experiments/sky/motion/training/ema", 1, ["training.ema", "1", "less than 1", "nearest: 0.9999"], True),
    ("experiments/sky/motion/training/steps", 0, ["training.steps", "0", "more than 0", "nearest: 1"], True),
    ("experiments/sky/motion/training/flip", 1, ["training.flip", "1", "nearest: true"], True),
    ("experiments/sky/motion/training/flip", "yes", ["training.flip", "'yes'", "text"], True),
    ("experiments/sky/motion/training/precision", "fp16", ["precision", "'fp16'", "'bf16'"], True),
    ("experiments/sky/motion/posgm", True, ["experiments.sky.motion.posgm", "did you mean 'posgn'"], True),
    ("presets/small/motion/posgm", True, ["presets.small.motion.posgm", "did you mean 'posgn'"], True),
    ("experiments/sky/motion/network", 3, ["motion.network", "3", "group of keys"], True),
    ("experiments/sky/motion", None, ["experiments.sky.motion", "nothing", "group of keys"], True),
    ("experiments/sky/motion/network/multipliers", 2, ["multipliers", "2", "nearest: [2]"], True),
    ("experiments/sky/motion/network/multipliers", [], ["multipliers", "[]", "too short"], True),
    ("experiments/sky/motion/network/multipliers", [1, 0], ["multipliers.1", "0", "nearest: 1"], True),
    ("experiments/sky/motion/network/multipliers", [1, "2"], ["multipliers.1", "'2'", "write 2"], True),
    ("experiments/sky/motion/network/channels", 36, ["network.channels", "36", "nearest: 32"], False),
    (
        "experiments/sky/motion/network",
        {"channels": 3, "groups": 3, "head_channels": 3, "multipliers": [1], "attention": []},
        ["motion.network.channels", "3", "nearest: 4"],
        False,
    ),
    ("experiments/sky/motion/network/head_channels", 48, ["head_channels", "48", "nearest: 16"], False),
    ("experiments/sky/motion/network/attention", [5], ["network.attention", "5", "nearest: 8"], False),
    (
        "experiments/sky/motion/network",
        {"channels": 32, "multipliers": [1, 2], "head_channels": 64, "attention": [16]},
        ["motion.network.head_channels", "64", "width 32", "nearest: 32"],
        False,
    ),
    (
        "experiments/sky/motion/network/multipliers",
        [1, 2, 2, 2, 2, 2],
        ["motion.network.multipliers", "[1, 2, 2, 2, 2, 2]", "resolution 16", "nearest resolution: 32"],
        False,
    ),
    ("experiments/sky/motion/residual", "feature", ["motion.residual", "'feature'", "'features'"], True),
    ("experiments/sky/motion/spynet", "basicvrs", ["motion", "'basicvrs'", "did you mean 'basicvsr'"], False),
    ("experiments/sky/motion/spynet", "/w/network-sintel.pytorch", ["data/weights/network-sintel.pytorch"], False),
    ("experiments/sky/content/diffusion/variance", "learned", ["variance", "'learned'", "learned-range"], True),
    ("experiments/sky/content_of", "sku", ["experiments.sky.content_of", "no experiment 'sku'"], False),
    ("experiments/sky/content_of", "sky", ["experiments.sky.content_of", "no experiment 'sky'"], False),
    ("experiments/sky/frames", 17, ["experiments.sky.frames", "17", "nearest: 16"], False),
    ("experiments/sky/frames", 1, ["experiments.sky.frames", "1", "at least 2", "nearest: 2"], True),
    ("experiments/sky/sampling/steps", 2000, ["sampling.steps", "2000", "nearest: 1000"], False),
    ("experiments/sky/sampling/content_steps", 1001, ["content_steps", "1001", "nearest: 1000"], False),
    ("experiments/sky/sampling/noise_correlation", 1.5, ["noise_correlation", "1.5", "nearest: 1"], True),
    ("experiments/sky/metrics/protocols", [], ["metrics.protocols", "[]", "too short"], True),
    ("experiments/sky/metrics/protocols", ["stylegan"], ["protocols.0", "'stylegan'", "'styleganv'"], False),
    ("experiments/sky/sampling/frames", 1, ["sampling.frames", "1", "nearest: 2"], True),
    ("experiments/sky/sampling/frames", 17, ["sky.sampling.frames", "17", "16 frames", "clamp or stretch"], False),
    ("experiments/sky/sampling/time_grid", "stretched", ["time_grid", "did you mean 'stretch'"], True),
    ("experiments/sky/sampling/seeds", 3, ["sampling.seeds", "3", "nearest: [3]"], True),
    ("experiments/sky/sampling/seeds", [0, -1], ["sampling.seeds.1", "-1", "nearest: 0"], True),
    ("experiments/sky/sampling/seeds", [1, 1], ["sampling.seeds", "[1, 1]", "nearest: [1]"], False),
    ("ablations", {"skye": ROWS}, ["ablations.skye", "no experiment 'skye'", "did you mean 'sky'"], False),
    ("ablations", {"sky": ROWS | {"seeds": []}}, ["ablations.sky.seeds", "[]", "too short"], True),
    ("ablations", {"sky": ROWS | {"seeds": [2, 2]}}, ["ablations.sky.seeds", "twice", "nearest: [2]"], False),
    ("ablations", {"sky": ROWS | {"tables": {}}}, ["ablations.sky.tables", "too short"], True),
    ("ablations", {"sky": ROWS | {"tables": {"3a": 3}}}, ["sky.tables.3a", "3", "group of keys"], True),
    ("ablations", {"sky": ROWS | {"tables": {"3a": {"a": "small"}}}}, ["tables.3a.a", "list", "['small']"], True),
    ("ablations", {"sky": ROWS | {"tables": {"3a": {"a": ["smal"]}}}}, ["sky.tables.3a.a", "mean 'small'"], False),
    ("ablations", {"sky": ROWS | {"preset": "smal"}}, ["ablations.sky.preset", "did you mean 'small'"], False),
    ("ablations", {"sky": ROWS | {"preset": 3}}, ["ablations.sky.preset", "3", "preset's name"], True),
    ("ablations", {"sky": ROWS | {"seed": 3}}, ["ablations.sky.seed", "did you mean 'seeds'"], True),
    ("ablations", {"sky": {"seeds": [0]}}, ["ablations.sky.tables", "missing"], True),
    ("datasets/sky/raw", "/videos/sky", ["datasets.sky.raw", "'/videos/sky'", "'data/raw/sky'"], False),
    ("datasets/sky/raw", "data/../../sky", ["datasets.sky.raw", "'data/../../sky'", "'data/raw/sky'"], False),
    ("datasets/sky/raw", "-", ["datasets.sky.raw", "missing"], True),
    ("datasets/sky/resize", "box", ["datasets.sky.resize", "'box'", "known: area"], True),
    ("datasets/sky/stride", 3, ["datasets.sky.procedural.frames", "32", "nearest: 46"], False),
    ("datasets/sky/max_frames", 8, ["datasets.sky.max_frames", "8", "nearest: 16"], False),
    ("datasets/sky", "sky", ["datasets.sky", "'sky'", "group of keys"], True),
]


@pytest.mark.parametrize(("key", "value", "words", "by_schema"), BAD)
def test_one_line_names_key_value_and_nearest(key, value, words, by_schema):
    document = changed(key, value)
    with pytest.raises(ConfigError) as caught:
        config.resolve(document, "facts.yaml")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("facts.yaml: ")
    for word in words:
        assert word in line, line
    assert schema_refuses(document) is by_schema


@pytest.mark.parametrize("value", [yaml.safe_load("2020-01-01"), {1: 2}])
def test_what_json_has_not_is_refused(value):
    with pytest.raises(ConfigError, match=r"experiments\.sky\.dataset"):
        config.resolve(changed("experiments/sky/dataset", value))


def test_schema_refuses_nothing_that_the_models_take():
    # Every single value of the small and the shipped document replaced by things of other types.
    other = ["12", 12, -1, 0, 1.5, 1e9, True, None, [], [1], ["a"], {}, {"a": 1}]

    def leaves(node, path=()):
        yield path
        if isinstance(node, dict):
            for key, inner in node.items():
                yield from leaves(inner, (*path, key))

    document, refused_by_both = small(), 0
    document["experiments"]["sky"] |= {
        "content": {"constant": True, "diffusion": {"eta": 0.0}, "training": {"lr": 0.1, "ema": 0.5}},
        "sampling": {"videos": 4, "sampler": "ddim"},
        "metrics": {"protocols": ["styleganv"], "videos": 2},
    }
    validator = jsonschema.Draft202012Validator(config.schema())
    for path in list(leaves(document))[1:]:
        for value in other:
            trial = copy.deepcopy(document)
            here = trial
            for key in path[:-1]:
                here = here[key]
            here[path[-1]] = value
            try:
                config.resolve(trial)
                taken = True
            except ConfigError as error:
                taken = False
                assert "\n" not in str(error)
            if not validator.is_valid(trial):
                assert not taken, f"{'.'.join(path)} = {value!r}: the schema refuses it, the models do not"
                refused_by_both += 1
    assert refused_by_both > 200


def test_shipped_params_pass_both(shipped):
    jsonschema.validate(shipped, config.schema())
    params = config.resolve(shipped)
    assert set(params.experiments) == set(shipped["experiments"])
    assert config.load(ROOT / "params.yaml") == params
    assert {"sky", "sky-paper", "smoke"} <= set(params.experiments)


def test_schema_on_disk_is_the_models(vidm, tmp_path):
    """What editors complete params.yaml by."""
    assert vidm("schema", "--out", tmp_path / "new" / "schema.json").returncode == 0
    shipped = (ROOT / "workflow/schemas/params.schema.json").read_text(encoding="utf-8")
    assert (tmp_path / "new" / "schema.json").read_text(encoding="utf-8") == shipped, (
        "run: vidm schema --out workflow/schemas/params.schema.json"
    )


def test_protocols_are_those_of_the_metrics():
    from vidm.metrics.protocol import PROTOCOLS

    for name in PROTOCOLS:
        config.resolve(changed("experiments/sky/metrics/protocols", [name]))
    with pytest.raises(ConfigError) as caught:
        config.resolve(changed("experiments/sky/metrics/protocols", ["none"]))
    assert all(name in str(caught.value) for name in PROTOCOLS)


def test_a_protocol_of_ones_own():
    document = small() | {"protocols": {"mine": {"like": "tf", "videos": 64, "stride": 2}}}
    document["experiments"]["sky"]["metrics"] = {"protocols": ["mine", "digan"]}
    mine = config.resolve(document).protocols["mine"]
    assert (mine.name, mine.videos, mine.stride, mine.kernel, mine.ddof) == ("mine", 64, 2, "bilinear-tf1", 1)
    for own, said in (
        ({"frames": 8}, "protocols.mine.frames: 8 must be at least 9; nearest: 9"),
        ({"fraems": 16}, "protocols.mine.fraems: unknown key; did you mean 'frames'?"),
        ({"like": "digann"}, "did you mean 'digan'?"),
        ({"low": 1.0}, "protocols.mine.low: 1 is not below high = 1"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            config.resolve(small() | {"protocols": {"mine": own}})
    with pytest.raises(ConfigError, match="can't be changed; nearest: 'digan-mine'"):
        config.resolve(small() | {"protocols": {"digan": {}}})


def test_last_preset_wins_and_own_keys_win_over_all():
    document = small()
    document["presets"]["a"] = {"seed": 1, "sampling": {"steps": 7, "batch": 3}}
    document["presets"]["b"] = {"seed": 2, "sampling": {"steps": 9}}
    document["experiments"]["sky"] |= {"preset": ["small", "a", "b"], "sampling": {"sheet": 2}}
    experiment = config.resolve(document).experiment("sky")
    assert (experiment.name, experiment.seed) == ("sky", 2)
    assert (experiment.sampling.steps, experiment.sampling.batch, experiment.sampling.sheet) == (9, 3, 2)
    document["experiments"]["sky"]["seed"] = 5
    assert config.resolve(document).experiment("sky").seed == 5


def test_lists_are_replaced_not_joined():
    document = small()
    document["experiments"]["sky"]["motion"] = {"network": {"multipliers": [1]}}
    document["experiments"]["sky"]["motion"]["network"]["attention"] = []
    assert config.resolve(document).experiment("sky").motion.network.multipliers == (1,)


def test_resolve_leaves_its_argument_alone():
    document = small()
    config.resolve(document)
    assert document == small()


def test_frozen():
    experiment = config.resolve(small()).experiment("sky")
    with pytest.raises(ValueError, match="frozen"):
        experiment.seed = 3


def test_unknown_names_are_input_errors():
    params = config.resolve(small())
    with pytest.raises(ConfigError, match="did you mean 'sky'"):
        params.experiment("sly")
    with pytest.raises(ConfigError, match="did you mean 'sky'"):
        params.dataset("skyy")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "line 2: key 'a' stands here twice"),
        ("datasets:\n  sky: {raw: a, raw: b}\n", "line 2: key 'raw' stands here twice"),
        ("a: [1\n", "not YAML"),
        ("\ta: 1\n", "not YAML"),
        ("", "nothing is not a group of keys"),
        ("- 1\n", r"\[1\] is not a group of keys"),
        ("a: !!python/object/apply:os.getcwd []\n", "not YAML"),
    ],
)
def test_bad_files(tmp_path, text, words):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as caught:
        config.load(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        config.load(tmp_path / "params.yaml")
    with pytest.raises(ConfigError, match="can't be read"):
        config.load(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not YAML"):
        config.load(tmp_path / "binary")


def test_anchors_and_merge_keys_still_work(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        "model_version: 1\n"
        "datasets: {sky: &sky {raw: data/raw/sky, resolution: 16}, two: {<<: *sky, resolution: 32}}\n"
        "experiments: {}\n",
        encoding="utf-8",
    )
    assert config.load(path).dataset("two").resolution == 32


def test_digest_sees_facts_and_nothing_else():
    one, two = (config.resolve(small()).experiment("sky") for _ in range(2))
    assert config.digest(one) == config.digest(two)
    assert config.digest(one.content, 1) != config.digest(one.content, 2)
    assert config.digest(one.content) != config.digest(one.motion)
    assert len(config.digest(one)) == 12


@pytest.mark.parametrize("part", ["content", "motion"])
def test_another_ones_network_must_be_ones_own(part):
    document = changed("experiments/sky/seed", 0)
    shared = {**document["experiments"]["sky"], f"{part}_of": "sky", "sampling": {"noise_correlation": 0.5}}
    document["experiments"]["still"] = shared
    assert getattr(config.resolve(document).experiment("still"), f"{part}_of") == "sky"
    differing = {"seed": 5, "class_conditioning": True, part: {"diffusion": {"loss": "mse"}}}
    for key, value in (differing | ({"frames": 8} if part == "motion" else {})).items():
        document["experiments"]["still"] = shared | {key: value}
        with pytest.raises(ConfigError, match=rf"still.{part}_of: 'sky' has another {key}"):
            config.resolve(document)
    document["experiments"]["still"] = shared
    document["experiments"]["third"] = shared | {f"{part}_of": "still"}
    with pytest.raises(ConfigError, match=rf"third.{part}_of: no experiment 'still' that trains one"):
        config.resolve(document)


def test_what_is_unlike_the_paper():
    params = config.load(ROOT / "params.yaml")
    for name in ("sky-paper", "sky256", "ucf128-class"):
        assert config.unlike_paper(params.experiment(name)) == []
    assert config.unlike_paper(params.experiment("sky")) == [
        "content.constant_start: 'zeros'",
        "content.diffusion.prediction: 'v'",
        "motion.previous: true",
        "motion.spynet_finetuned: false",
        "motion.target: 'warped-difference'",
        "motion.conditioning_noise: 0.05",
        "motion.diffusion.prediction: 'x0'",
        "motion.diffusion.scaled_input: true",
        "motion.diffusion.loss: 'mse'",
        "motion.diffusion.levels: 'log-normal'",
        "motion.diffusion.levels_mean: 0.7",
        "motion.diffusion.levels_std: 1.0",
        "sampling.sigma_max: 20.0",
        "sampling.sigma_min: 1.0",
    ]
    assert config.unlike_paper(params.experiment("clevrer256-official")) == [
        "motion.residual: 'features-n'",
        "motion.spynet_range: 'signed'",
        "motion.diffusion.loss: 'mse'",
        "motion.diffusion.variance: 'learned-range'",
        "motion.diffusion.weighting: 'p2'",
    ]


def ablated() -> config.Params:
    """Two rows of content and two of motion, one of them the same row; the experiment has another one's network."""
    document = small()
    document["presets"] |= {"mse": {"content": {"diffusion": {"loss": "mse"}}}, "blind": {"motion": {"posgn": False}}}
    document["presets"] |= {"short": {"content": {"training": {"steps": 9}}, "frames": 8}}
    document["experiments"]["other"] = {"preset": "small", "dataset": "sky", "frames": 16}
    document["experiments"]["sky"] |= {"content_of": "other", "motion": {"posgn": True}, "seed": 7}
    document["experiments"]["other"] |= {"seed": 7}
    tables = {"3a": {"Squared Loss": ["mse"], "default": []}, "3b": {"blind": ["blind"], "plain": []}}
    document["ablations"] = {"sky": {"preset": "short", "seeds": [5, 6], "tables": tables}}
    return config.resolve(document)


def test_cells_are_experiments_that_train_what_differs():
    params = ablated()
    assert list(params.experiments) == ["sky", "other"]
    assert list(params.cells) == [
        f"sky-ablation-{row}-s{seed}" for seed in (5, 6) for row in ("default", "mse", "blind")
    ]
    for seed in (5, 6):
        default, mse, blind = (params.experiment(f"sky-ablation-{r}-s{seed}") for r in ("default", "mse", "blind"))
        assert {e.seed for e in (default, mse, blind)} == {seed} and default.frames == 8
        assert (default.content_of, default.motion_of) == (None, None), "not the experiment's: its own are shorter"
        assert (mse.content_of, mse.motion_of) == (None, default.name)
        assert (blind.content_of, blind.motion_of) == (default.name, None)
        assert (mse.content.diffusion.loss, mse.content.training.steps) == ("mse", 9)
        assert blind.motion.posgn is False, "a row's presets win over the experiment's own keys"
    assert params.experiment("sky").content.training.steps != 9
    rows = params.ablation("sky").cells("sky")
    assert rows["3a"]["default"] == rows["3b"]["plain"] == ("sky-ablation-default-s5", "sky-ablation-default-s6")
    assert params.ablation("sky").reference == {"3a": "default", "3b": "plain"}


def test_without_a_plain_row_the_first_that_has_a_network_trains_it():
    document = small()
    document["presets"] |= {"a": {"motion": {"posgn": False}}, "b": {"motion": {"implicit": False}}}
    document["ablations"] = {"sky": {"seeds": [0], "tables": {"mine": {"a": ["a"], "b": ["b"]}}}}
    a, b = config.resolve(document).cells.values()
    assert (a.content_of, a.motion_of, b.content_of, b.motion_of) == (None, None, a.name, None)


def test_a_cell_that_is_an_experiment_too_is_refused():
    document = small()
    document["ablations"] = {"sky": {"seeds": [0], "tables": {"mine": {"plain": []}}}}
    document["experiments"]["sky-ablation-default-s0"] = {"preset": "small", "dataset": "sky"}
    with pytest.raises(ConfigError, match=r"sky-ablation-default-s0: is a cell of ablations\.sky, too"):
        config.resolve(document)
    with pytest.raises(ConfigError, match="experiment 'sky' has no ablations"):
        config.resolve(small()).ablation("sky")


def test_facts_that_came_later_are_written_where_they_are_said():
    """As params of rules they would sample again, or measure again, what is there."""
    e = config.resolve(small()).experiment("sky")
    assert not {"seeds", "frames", "time_grid"} & e.sampling.model_dump(mode="json").keys()
    assert not {"self_static", "motion_only"} & e.metrics.model_dump(mode="json").keys()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "metrics/protocols",
            ["styleganv", "styleganv-128"],
            "protocols.1: windows of 'styleganv-128' span 128 frames",
        ),
        ("metrics/protocols", ["styleganv-16-stride8"], "span 121 frames, and its videos have 16"),
        ("frames", 8, "protocols.0: windows of 'styleganv' span 16 frames, and its videos have 8"),
        ("sampling/videos", 1, "sampling.videos: 1 video has no covariance, and so no FVD; nearest: 2"),
        ("metrics/videos", 1, "metrics.videos: 1 video"),
        ("metrics/motion_only", 1, "metrics.motion_only: 1 video"),
    ],
)
def test_what_can_t_be_measured_may_be_trained(key, value, said):
    config.check_measurable(config.resolve(small()).experiment("sky"), config.resolve(small()))
    params = config.resolve(changed(f"experiments/sky/{key}", value))
    with pytest.raises(ConfigError, match=re.escape(said)):
        config.check_measurable(params.experiment("sky"), params)


def test_every_experiment_can_be_measured(shipped):
    params = config.resolve(shipped)
    for experiment in params.every.values():
        config.check_measurable(experiment, params)


def merged(document: dict, more: dict) -> dict:
    both = document.keys() & more.keys()
    deep = {key: merged(document[key], more[key]) for key in both if isinstance(more[key], dict)}
    return document | more | deep


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_what_the_documentation_writes_is_allowed(page, shipped):
    """Each block of YAML, beside what params.yaml has and the README's own data set."""

    def blocks(name: str) -> list[dict]:
        return [
            yaml.safe_load(b) for b in re.findall(r"```yaml\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL)
        ]

    (readme,) = blocks("README.md")
    for block in blocks(page):
        if block.keys() == {"waves"}:
            block = {"experiments": block}
        elif not block.keys() <= config.schema()["properties"].keys():  # of one experiment
            block = {"experiments": {"waves": block}}
        config.resolve(merged(merged(shipped, readme), block))
