"""Schedules, q and p, losses and samplers: official tensors, exact solutions and other libraries' numbers."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from safetensors.torch import load_file
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from vidm.config import Diffusion
from vidm.diffusion.bound import discretized_gaussian_log_likelihood, normal_cdf, normal_kl, variational_bound
from vidm.diffusion.gaussian import (
    p_mean_variance,
    p_sample,
    predict_xstart_from_eps,
    predict_xstart_from_v,
    q_posterior_mean_variance,
    q_sample,
    target,
)
from vidm.diffusion.losses import charbonnier, loss_weights, training_loss
from vidm.diffusion.samplers import METHODS, Ddim, Sampler
from vidm.diffusion.schedule import Schedule, at, respaced, space_timesteps

OFFICIAL = Diffusion(loss="mse", variance="learned-range", weighting="p2")
TABLES = ("betas", "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1")
TABLES += ("posterior_mean_coef2",)
VARIANCES = ("fixed-small", "fixed-large", "learned-range")


@pytest.fixture(scope="module")
def golden():
    return load_file(Path(__file__).parent / "golden" / "official_parts.safetensors")


@pytest.fixture(scope="module")
def q(golden):
    return {key[2:]: value for key, value in golden.items() if key.startswith("q/")}


def normals(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


# Tables.


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_official_ones(golden, name):
    assert_close(getattr(Schedule(Diffusion()), name), golden[f"table/{name}"], rtol=1e-12, atol=0)


def test_alpha_bar_snr_and_p2_are_the_official_ones(golden):
    schedule = Schedule(Diffusion())
    assert_close(schedule.alpha_bar, golden["table/alphas_cumprod"], rtol=1e-12, atol=0)
    # The official 1 / (1 - abar) - 1 loses digits where snr is 1e-5; ours does not.
    assert_close(schedule.snr, golden["table/snr"], rtol=1e-12, atol=1e-14)
    assert_close(loss_weights(OFFICIAL, schedule), golden["table/p2_weight_gamma1_k1"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("sections", ["100", "ddim100", "25", "ddim25", "10,15,25"])
def test_respaced_tables_are_the_official_ones(golden, sections):
    timesteps = space_timesteps(1000, sections)
    assert timesteps == golden[f"respace/map_{sections}"].tolist()
    chain = respaced(Schedule(Diffusion()), timesteps)
    assert chain.timesteps.tolist() == timesteps
    assert_close(chain.betas, golden[f"respace/betas_{sections}"], rtol=1e-12, atol=1e-12)


def test_respacing_keeps_the_marginals():
    full = Schedule(Diffusion(schedule="cosine", steps=40))
    half = respaced(full, range(0, 40, 2))
    assert_close(half.alpha_bar, full.alpha_bar[::2], rtol=1e-12, atol=0)
    assert respaced(half, [1, 3]).timesteps.tolist() == [2, 6]
    assert_close(respaced(full, full.timesteps).betas, full.betas, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "steps, sections, expected",
    [(10, 5, [0, 2, 4, 7, 9]), (10, "ddim5", [0, 2, 4, 6, 8]), (7, "1,2", [0, 4, 6]), (3, 3, [0, 1, 2])],
)
def test_spaced_steps(steps, sections, expected):
    assert space_timesteps(steps, sections) == expected


@pytest.mark.parametrize("sections", ["", "ddim", "ten", "-1", 0, "5,6", 11, "ddim7", "ddim2,3", "ddim11"])
def test_impossible_steps_are_one_clear_line(sections):
    with pytest.raises(ValueError, match=r"^sections: [^\n]+$"):
        space_timesteps(10, sections)


@pytest.mark.parametrize("timesteps", [[], [-1, 2], [2, 1], [1, 1], [9, 10]])
def test_impossible_chains_are_one_clear_line(timesteps):
    with pytest.raises(ValueError, match=r"^timesteps: [^\n]+$"):
        respaced(Schedule(Diffusion(steps=10)), timesteps)


def test_cosine_betas_are_those_of_diffusers():
    betas = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").betas
    assert_close(Schedule(Diffusion(schedule="cosine")).betas.float(), betas, rtol=1e-6, atol=0)


# q and p.


def test_q_is_the_official_one(q):
    schedule = Schedule(Diffusion())
    assert_close(q_sample(schedule, q["x0"], q["t"], q["noise"]), q["x_t"], rtol=0, atol=1e-6)
    mean, variance, log_variance = q_posterior_mean_variance(schedule, q["x0"], q["x_t"], q["t"])
    assert_close(mean, q["post_mean"], rtol=0, atol=1e-6)
    assert_close(variance, q["post_var"], rtol=1e-6, atol=0)
    assert_close(log_variance, q["post_logvar"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("clip", [0, 1])
def test_p_is_the_official_one(q, clip):
    p = p_mean_variance(Schedule(OFFICIAL), OFFICIAL.variance, q["model_out"], q["x_t"], q["t"], bool(clip))
    for name in ("mean", "log_variance", "pred_xstart"):
        assert_close(getattr(p, name), q[f"p_{name}_clip{clip}"], rtol=1e-6, atol=1e-5)
    assert_close(p.variance, p.log_variance.exp())


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_step_off_by_one_is_caught(q, shift):
    schedule, t = Schedule(OFFICIAL), (q["t"] + shift).clamp(0, 999)
    mean, _, _ = q_posterior_mean_variance(schedule, q["x0"], q["x_t"], t)
    p = p_mean_variance(schedule, OFFICIAL.variance, q["model_out"], q["x_t"], t, clip=True)
    found = (q_sample(schedule, q["x0"], t, q["noise"]), mean, p.log_variance)
    for ours, name in zip(found, ("x_t", "post_mean", "p_log_variance_clip1"), strict=True):
        assert (ours - q[name]).abs().max() > 2e-5, name  # twice the tolerance above


@pytest.mark.parametrize("t", [1, 10, 500, 999])
def test_posterior_by_bayes_rule(t):
    """q(x_{t-1} | x_t, x_0) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0), summed on a grid."""
    schedule, x_0, x_t = Schedule(Diffusion()), 0.3, 0.5
    abar, beta = schedule.alpha_bar[t - 1], schedule.betas[t]
    x = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    density = Normal(abar.sqrt() * x_0, (1 - abar).sqrt()).log_prob(x)
    density += Normal((1 - beta).sqrt() * x, beta.sqrt()).log_prob(torch.tensor(x_t, dtype=torch.float64))
    weight = torch.softmax(density, 0)
    mean = (weight * x).sum()
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    ours = q_posterior_mean_variance(schedule, x_0 * one, x_t * one, torch.tensor([t]))
    assert_close(ours[0].item(), mean.item(), rtol=0, atol=1e-6)
    assert_close(ours[1].item(), (weight * (x - mean) ** 2).sum().item(), rtol=1e-6, atol=0)
    assert_close(ours[2].exp(), ours[1])


def test_v_and_eps_name_the_same_point():
    schedule, t = Schedule(Diffusion(prediction="v")), torch.tensor([0, 10, 500, 999])
    x_0, eps = normals(2, 4, 3, 8, 8, dtype=torch.float64)
    x_t, v = q_sample(schedule, x_0, t, eps), target(schedule, x_0, t, eps)
    signal, noise = schedule.signal_and_noise(t)
    assert_close(predict_xstart_from_v(schedule, x_t, t, v), x_0, rtol=0, atol=1e-6)
    assert_close(noise * x_t + signal * v, eps, rtol=0, atol=1e-6)
    assert_close(predict_xstart_from_eps(schedule, x_t, t, eps), x_0, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name, table", [("fixed-small", "posterior_variance"), ("fixed-large", "betas")])
def test_fixed_variances(name, table):
    schedule, t, x_t = Schedule(Diffusion()), torch.tensor([0, 1, 999]), normals(3, 3, 2, 2)
    p = p_mean_variance(schedule, name, x_t, x_t, t, clip=True)
    expected = getattr(schedule, table)[t]
    expected[0] = schedule.posterior_variance[1]
    assert_close(p.log_variance, at(expected.log(), torch.arange(3)).expand_as(x_t))
    assert_close(p.variance[1:], p.log_variance[1:].exp())


@pytest.mark.parametrize("variance, channels", [("fixed-small", 6), ("learned-range", 3)])
def test_output_of_wrong_width_is_one_clear_line(variance, channels):
    x_t, t = torch.zeros(1, 3, 2, 2), torch.tensor([1])
    with pytest.raises(ValueError, match=f"^variance {variance}: the network puts out {channels} channels, not"):
        p_mean_variance(Schedule(Diffusion()), variance, torch.zeros(1, channels, 2, 2), x_t, t, clip=True)


# Losses.


def test_charbonnier():
    y = torch.tensor([3.0, 0.0, -1.0], requires_grad=True)
    loss = charbonnier(y, torch.zeros(3), 1e-8)
    loss.sum().backward()
    assert_close(loss, torch.tensor([3.0, 1e-8, 1.0]))
    assert_close(y.grad, torch.tensor([1.0, 0.0, -1.0]))  # finite at an error of 0
    assert_close(charbonnier(y, torch.zeros(3), 4.0), torch.tensor([5.0, 4.0, math.sqrt(17)]))


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("loss", ["charbonnier", "mse"])
def test_plain_loss_is_the_mean_penalty_to_the_bit(loss, prediction):
    facts = Diffusion(loss=loss, prediction=prediction)
    schedule, t = Schedule(facts), torch.tensor([0, 3, 500, 999])
    x_0, eps, output = normals(3, 4, 3, 8, 8)
    output = output.bfloat16()
    ours = training_loss(facts, schedule, output, x_0, q_sample(schedule, x_0, t, eps), t, eps)
    difference = output.float() - target(schedule, x_0, t, eps)
    expected = torch.hypot(difference, torch.tensor(1e-8)) if loss == "charbonnier" else difference.square()
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected.mean())


def official_loss(q, facts, items):
    batch = (q[name][items] for name in ("model_out", "x0", "x_t", "t", "noise"))
    return training_loss(facts, Schedule(facts), *batch)


def test_official_loss(q):
    """Item by item: P2-weighted MSE, the bound, their sum; and the mean over a batch."""
    schedule = Schedule(OFFICIAL)
    bound = variational_bound(schedule, OFFICIAL.variance, q["model_out"], q["x0"], q["x_t"], q["t"])
    assert_close(bound, q["loss_vb"], rtol=1e-5, atol=1e-6)
    losses = torch.stack([official_loss(q, OFFICIAL, [i]) for i in range(3)])
    assert_close(losses, q["loss_loss"], rtol=1e-5, atol=1e-6)
    assert_close(losses - bound, q["loss_mse"], rtol=1e-5, atol=1e-6)
    assert_close(official_loss(q, OFFICIAL, slice(3)), losses.mean())


def test_bound_trains_the_variance_alone(q):
    facts = OFFICIAL.model_copy(update={"weighting": "none"})
    output = q["model_out"].clone().requires_grad_()
    training_loss(facts, Schedule(facts), output, q["x0"], q["x_t"], q["t"], q["noise"]).backward()
    assert output.grad.isfinite().all()
    assert (output.grad[:, 3:].abs().amax(dim=(2, 3)) > 0).all()
    assert_close(output.grad[:, :3], 2 * (output[:, :3] - q["noise"]).detach() / q["noise"].numel())


def test_bound_is_scaled_by_the_steps():
    facts = Diffusion(steps=50, loss="mse", variance="learned-range")
    schedule, t = Schedule(facts), torch.tensor([0, 20, 49])
    x_0, eps = normals(2, 3, 3, 4, 4)
    x_t = q_sample(schedule, x_0, t, eps)
    output = torch.cat([eps, normals(3, 3, 4, 4, seed=1)], dim=1)  # no error of the mean
    bound = variational_bound(schedule, facts.variance, output, x_0, x_t, t)
    assert_close(training_loss(facts, schedule, output, x_0, x_t, t, eps), 0.05 * bound.mean())


def test_kl_is_that_of_torch():
    mean1, log1, mean2, log2 = normals(4, 1000)
    expected = kl_divergence(Normal(mean1, (log1 / 2).exp()), Normal(mean2, (log2 / 2).exp()))
    assert_close(normal_kl(mean1, log1, mean2, log2), expected, rtol=1e-4, atol=1e-5)
    assert_close(normal_kl(mean1, log1, mean1, log1), torch.zeros(1000))


@pytest.mark.parametrize("mean", [-1.2, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("log_variance", [-8.0, -4.0, 0.0])
def test_grey_levels_add_up_to_one(mean, log_variance):
    levels = torch.arange(256) / 127.5 - 1
    log = discretized_gaussian_log_likelihood(levels, torch.tensor(mean), torch.tensor(log_variance))
    assert_close(log.exp().sum().item(), 1.0, rtol=0, atol=1e-5)
    exact = Normal(mean, math.exp(log_variance / 2))
    inner = exact.cdf(levels[1:-1] + 1 / 255) - exact.cdf(levels[1:-1] - 1 / 255)
    assert_close(log.exp()[1:-1], inner, rtol=0, atol=3e-4)


def test_cdf_is_that_of_torch():
    x = torch.linspace(-6, 6, 1001)
    assert_close(normal_cdf(x), torch.special.ndtr(x), rtol=0, atol=2e-4)


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("t", [100, 600])  # snr above and below gamma
def test_min_snr_weighs_the_error_of_x0(prediction, schedule, t):
    """With MSE, w_t |error|^2 = min(snr, gamma) |error of x_0|^2, whatever the network predicts."""
    facts = Diffusion(prediction=prediction, schedule=schedule, loss="mse", weighting="min-snr", min_snr_gamma=5.0)
    tables, t = Schedule(facts), torch.tensor([t])
    x_0, eps, wrong = normals(3, 1, 3, 8, 8)
    x_t = q_sample(tables, x_0, t, eps)
    guess = {"eps": predict_xstart_from_eps, "v": predict_xstart_from_v}[prediction](tables, x_t, t, wrong)
    expected = tables.snr[t].clamp(max=5).float() * (guess - x_0).square().mean()
    assert_close(training_loss(facts, tables, wrong, x_0, x_t, t, eps).view(1), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("weighting", ["p2", "min-snr"])
@pytest.mark.parametrize("loss", ["charbonnier", "mse"])
def test_weights_are_per_item(loss, weighting):
    facts = Diffusion(loss=loss, weighting=weighting, p2_gamma=0.5, p2_k=2.0)
    schedule, t = Schedule(facts), torch.tensor([0, 700])
    x_0, eps, output = normals(3, 2, 3, 4, 4)
    weights, plain = loss_weights(facts, schedule)[t], Diffusion(loss=loss)
    items = [training_loss(plain, schedule, output[i : i + 1], x_0, x_0, t[i : i + 1], eps[i : i + 1]) for i in (0, 1)]
    ours = training_loss(facts, schedule, output, x_0, x_0, t, eps)
    assert_close(ours.double(), (weights * torch.stack(items)).mean(), rtol=1e-5, atol=0)
    snr = schedule.snr[t]
    assert_close(weights, 1 / (2 + snr).sqrt() if weighting == "p2" else snr.clamp(max=5) / snr)


# Samplers.


@pytest.mark.parametrize("chain, visited", [("full", (0, 500, 999)), ("ddim25", (0, 480, 960))])
@pytest.mark.parametrize("eta", [0, 1])
def test_one_ddim_step_is_the_official_one(q, chain, visited, eta):
    steps = torch.tensor(space_timesteps(1000, "1000" if chain == "full" else chain))
    method = Ddim(OFFICIAL, steps.flip(0), eta=float(eta), clip=True)
    for i, t in enumerate(visited):
        output, x_t, noise = (q[name][i : i + 1] for name in ("model_out", "x_t", "ddim_noise"))
        ours = method.step(torch.tensor(t), output, x_t, noise)
        assert_close(ours[0], q[f"ddim_{chain}_eta{eta}"][i], rtol=0, atol=1e-4)


SPACINGS = [("ddpm", 100, 990, 0), ("ddpm", 30, 957, 0), ("ddim", 100, 999, 9), ("ddim", 30, 999, 32)]
SPACINGS += [("dpm-solver++", 20, 999, 0), ("sde-dpm-solver++", 20, 999, 0), ("unipc", 990, 999, 0)]


@pytest.mark.parametrize("name, steps, first, last", SPACINGS)
def test_spacing(name, steps, first, last):
    sampler = Sampler(Diffusion(), name, steps=steps, eta=0.0, clip=True)
    assert (len(sampler.timesteps), sampler.timesteps[0], sampler.timesteps[-1]) == (steps, first, last)
    assert sampler.draws == (steps if name in ("ddpm", "sde-dpm-solver++") else 0)
    assert (sampler.timesteps.diff() < 0).all()
    if (name, steps) == ("ddpm", 100):
        assert sampler.timesteps.tolist() == space_timesteps(1000, "ddim100")[::-1]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("steps", [0, 11])
def test_impossible_samplers_are_one_clear_line(name, steps):
    with pytest.raises(ValueError, match=f"^steps: {steps} is not within 1..10"):
        Sampler(Diffusion(steps=10), name, steps=steps, eta=0.0, clip=True)


def network(channels):
    """Any smooth function of x_t and t: (B, 3, H, W), (1,) -> (B, channels, H, W)."""
    mix = normals(channels, 3, seed=7)
    return lambda x, t: torch.tanh(torch.einsum("ij,bjhw->bihw", mix, x) + (t / 300).sin().view(-1, 1, 1, 1))


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("name, steps", [("ddpm", 100), ("ddpm", 30), ("ddim", 20)])
def test_small_fixed_variance_is_the_ddim_of_diffusers(name, steps, prediction):
    """DDPM is DDIM at eta 1; and our DDIM is theirs to the bit."""
    facts = Diffusion(prediction=prediction)
    theirs = DDIMScheduler(
        1000,
        trained_betas=Schedule(facts).betas.float().numpy(),
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[prediction],
        timestep_spacing="leading" if name == "ddpm" else "trailing",
    )
    theirs.set_timesteps(steps)
    predict, noise = network(3), normals(2, 1 + steps, 3, 4, 4)
    x = noise[:, 0]
    for i, t in enumerate(theirs.timesteps):
        options = {"eta": 1.0, "use_clipped_model_output": True, "variance_noise": noise[:, 1 + i]}
        x = theirs.step(predict(x, t.view(1)), t, x, **options).prev_sample
    ours = Sampler(facts, name, steps=steps, eta=1.0, clip=True)(predict, noise)
    assert_close(ours, x.clamp(-1, 1), rtol=0, atol=1e-5 if name == "ddpm" else 0)


@pytest.mark.parametrize("prediction, schedule", [("eps", "linear"), ("v", "cosine")])
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("steps", [1000, 30])
def test_ancestral_steps_are_those_of_diffusers(variance, steps, prediction, schedule):
    """Step by step, from the same x_t.

    Their log variance at t = 0 is that of 1e-20 and not of t = 1; it doesn't show, as neither adds noise there.
    """
    facts = Diffusion(prediction=prediction, schedule=schedule, variance=variance)
    theirs = DDPMScheduler(
        1000,
        trained_betas=Schedule(facts).betas.float().numpy(),
        variance_type=variance.replace("-", "_"),
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[prediction],
        timestep_spacing="leading",
    )
    theirs.set_timesteps(steps)
    theirs.alphas_cumprod = Schedule(facts).alpha_bar  # theirs in fp32 is off by 1e-4 at the first steps
    method = Sampler(facts, "ddpm", steps=steps, eta=0.0, clip=True).method
    assert torch.equal(method.timesteps, theirs.timesteps)
    predict, x = network(facts.channels), normals(1, 3, 4, 4)
    for i, t in enumerate(theirs.timesteps):
        if steps == 30 or i % 37 == 0 or t < 5:
            output = predict(x, t.view(1))
            step = theirs.step(output, t, x, generator=torch.Generator().manual_seed(i))
            x_next = method.step(t, output, x, normals(1, 3, 4, 4, seed=i))
            assert_close(x_next, step.prev_sample, rtol=0, atol=1e-5)
            x = x_next


MU, S = 0.1, 0.5


def gaussian_network(facts, chain=None):
    """The exact network for data N(MU, S^2) of one channel; with learned-range also the exact variance of the chain."""
    abar = Schedule(facts).alpha_bar

    def predict(x_t, t):
        a = abar[t].item()
        spread = a * S * S + 1 - a
        x_0 = MU + math.sqrt(a) * S * S / spread * (x_t - math.sqrt(a) * MU)
        eps = (x_t - math.sqrt(a) * x_0) / math.sqrt(1 - a)
        output = eps if facts.prediction == "eps" else math.sqrt(a) * eps - math.sqrt(1 - a) * x_0
        if chain is None:
            return output
        i = chain.timesteps.tolist().index(int(t))
        # Var(x_{t-1} | x_t): the posterior's, and what is unknown of x_0.
        exact = chain.posterior_variance[i] + chain.posterior_mean_coef1[i] ** 2 * S * S * (1 - a) / spread
        low, high = chain.posterior_log_variance_clipped[i], chain.betas[i].log()
        return torch.cat([output, torch.full_like(output, 2 * (exact.log() - low) / (high - low) - 1)], dim=1)

    return predict


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_ddim_solves_a_gaussian_exactly(prediction):
    """The exact network is linear, and the probability flow maps quantile to quantile."""
    facts = Diffusion(prediction=prediction)
    noise = torch.linspace(-1.5, 1.5, 9).view(9, 1, 1, 1, 1)
    errors = {}
    for steps in (20, 200):
        x_0 = Sampler(facts, "ddim", steps=steps, eta=0.0, clip=False)(gaussian_network(facts), noise)
        errors[steps] = (x_0 - (MU + S * noise[:, 0])).abs().max().item()
    assert errors[200] < 0.02
    assert errors[200] < errors[20] / 5  # first order


WEIGHTS, MEANS, SPREADS = torch.tensor([[0.3, 0.7], [-0.6, 0.5], [0.15, 0.25]], dtype=torch.float64)


def mixture_cdf(x, a):
    """P(x_t <= x) of a mixture of two Gaussians, at abar_t = a."""
    spread = (a * SPREADS**2 + 1 - a).sqrt()
    return (WEIGHTS * Normal(0, 1).cdf((x[..., None] - a**0.5 * MEANS) / spread)).sum(-1)


def mixture_network(facts):
    """The exact network for it, with learned-range a second channel of anything."""
    abar = Schedule(facts).alpha_bar

    def predict(x_t, t):
        a, x = abar[t].item(), x_t.double()
        spread, distance = a * SPREADS**2 + 1 - a, x[..., None] - a**0.5 * MEANS
        share = (WEIGHTS.log() - distance**2 / spread / 2 - spread.log() / 2).softmax(-1)
        x_0 = (share * (MEANS + a**0.5 * SPREADS**2 / spread * distance)).sum(-1)
        eps = (x - a**0.5 * x_0) / (1 - a) ** 0.5
        output = (eps if facts.prediction == "eps" else a**0.5 * eps - (1 - a) ** 0.5 * x_0).float()
        return output if facts.variance == "fixed-small" else torch.cat([output, torch.ones_like(output)], dim=1)

    return predict


@pytest.mark.parametrize("prediction, variance", [("eps", "learned-range"), ("v", "fixed-small")])
@pytest.mark.parametrize("name, order", [("ddim", 1), ("dpm-solver++", 2), ("unipc", 3)])
def test_orders_of_convergence_to_an_exact_solution(name, order, prediction, variance):
    """In one dimension the probability flow keeps quantiles: x_0 = F_0^-1(F_T(x_T)) for a mixture, by bisection."""
    facts = Diffusion(prediction=prediction, variance=variance)
    noise = torch.linspace(-1.6, 1.6, 41).view(41, 1, 1, 1, 1)
    quantile = mixture_cdf(noise[:, 0].double(), Schedule(facts).alpha_bar[-1])
    low = torch.full_like(quantile, -2)
    high = -low
    for _ in range(60):
        middle = (low + high) / 2
        below = mixture_cdf(middle, torch.ones(())) < quantile
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    errors = [
        (Sampler(facts, name, steps, 0.0, clip=False)(mixture_network(facts), noise) - low).abs().mean().item()
        for steps in (10, 40)
    ]
    assert order - 0.1 < math.log(errors[0] / errors[1], 4) < order + 0.6
    assert errors[1] < {1: 0.03, 2: 0.002, 3: 4e-4}[order]


@pytest.mark.parametrize("name", METHODS)
def test_chains_side_by_side_are_those_alone(name):
    facts, noise = Diffusion(prediction="v"), normals(2, 2, 6, 3, 4, 4)
    sampler, predict = Sampler(facts, name, steps=5, eta=0.0, clip=True), network(3)
    chains = [sampler.start(x) for x in noise]
    for t in sampler.timesteps.split(1):
        for chain in chains:
            chain.step(predict(chain.x, t))
    for chain, x in zip(chains, noise, strict=True):
        assert torch.equal(chain.clean, sampler(predict, x))
        assert torch.equal(sampler(predict, x), sampler(predict, x))


@pytest.mark.parametrize("name", METHODS)
def test_clipping_is_of_the_predicted_clean_frame(name):
    """A network that always says x_0 = 3: with clipping the end is 1, without it 3 before the last clamp."""
    facts = Diffusion(prediction="v")

    def predict(x_t, t):
        signal, noise = Schedule(facts).signal_and_noise(t)
        return (signal * x_t - 3) / noise

    ends = []
    for clip in (True, False):
        sampler = Sampler(facts, name, steps=4, eta=0.0, clip=clip)
        chain = sampler.start(normals(1, 5, 3, 4, 4))
        for t in sampler.timesteps.split(1):
            chain.step(predict(chain.x, t))
        ends.append(chain.x)
        assert torch.equal(chain.clean, torch.ones(1, 3, 4, 4))
    assert_close(ends[0], torch.ones(1, 3, 4, 4), rtol=0, atol=0.05)
    assert_close(ends[1], torch.full((1, 3, 4, 4), 3.0), rtol=0, atol=0.05)


def sampled_moments(facts, steps, chain=None, name="ddpm"):
    """Mean and variance of a stochastic sampler's x_0, without chance: it is linear in the independent draws."""
    noise = torch.cat([torch.zeros(1, 1 + steps), torch.eye(1 + steps)]).view(2 + steps, 1 + steps, 1, 1, 1)
    x_0 = Sampler(facts, name, steps=steps, eta=0.0, clip=False)(gaussian_network(facts, chain), noise).flatten()
    return x_0[0].item(), (x_0[1:] - x_0[0]).square().sum().item()


@pytest.mark.parametrize("variance, sign", [("fixed-small", -1), ("fixed-large", 1)])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_ancestral_sampling_approaches_a_gaussian(variance, sign, prediction):
    """Too little variance from the one fixed choice, too much from the other, less so with more steps."""
    facts = Diffusion(variance=variance, prediction=prediction)
    errors = []
    for steps in (25, 250):
        mean, spread = sampled_moments(facts, steps)
        assert mean == pytest.approx(MU, abs=2e-3)
        errors.append(sign * (spread - S * S))
    assert errors[0] > 4 * errors[1] > 0
    assert errors[1] < 0.02


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("steps", [10, 100])
def test_the_right_variance_samples_a_gaussian_with_few_steps(steps, prediction):
    facts = Diffusion(variance="learned-range", prediction=prediction)
    chain = respaced(Schedule(facts), space_timesteps(1000, f"ddim{steps}"))
    mean, spread = sampled_moments(facts, steps, chain)
    assert mean == pytest.approx(MU, abs=2e-3)
    assert spread == pytest.approx(S * S, abs=2e-3)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_stochastic_solver_samples_a_gaussian_to_second_order(prediction):
    facts, errors = Diffusion(prediction=prediction), []
    for steps in (20, 80):
        mean, spread = sampled_moments(facts, steps, name="sde-dpm-solver++")
        assert mean == pytest.approx(MU, abs=1e-5)
        errors.append(abs(spread - S * S))
    assert 1.8 < math.log(errors[0] / errors[1], 4) < 2.2
    assert errors[1] < 2e-3


def test_no_noise_at_the_first_step():
    x_t, noise = normals(2, 2, 3, 4, 4)
    facts = Diffusion(prediction="v")
    x = p_sample(Schedule(facts), "fixed-large", x_t, x_t, torch.tensor([0, 1]), noise, clip=False)
    mean = p_mean_variance(Schedule(facts), "fixed-large", x_t, x_t, torch.tensor([0, 1]), clip=False).mean
    assert torch.equal(x[0], mean[0])
    assert (x[1] - mean[1]).abs().max() > 1e-3


def test_one_step_chain_is_finite():
    facts = Diffusion(steps=1, variance="fixed-large")
    assert at(Schedule(facts).posterior_log_variance_clipped, torch.tensor([0])).isfinite().all()
    assert Sampler(facts, "ddpm", 1, 0.0, True)(network(3), normals(1, 2, 3, 4, 4)).isfinite().all()
