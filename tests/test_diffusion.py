"""Schedules, q and p, and losses: official tensors, exact solutions and other libraries' numbers."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from tensors import normals
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from vidm.config import Diffusion
from vidm.diffusion.bound import discretized_gaussian_log_likelihood, normal_cdf, normal_kl, variational_bound
from vidm.diffusion.gaussian import (
    p_mean_variance,
    predict_xstart_from_eps,
    predict_xstart_from_v,
    q_posterior_mean_variance,
    q_sample,
    target,
)
from vidm.diffusion.losses import charbonnier, loss_weights, training_loss
from vidm.diffusion.schedule import Schedule, at, respaced, space_timesteps

OFFICIAL = Diffusion(loss="mse", variance="learned-range", weighting="p2")
TABLES = ("betas", "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1")
TABLES += ("posterior_mean_coef2",)


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


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
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


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("t", [100, 600])  # snr above and below gamma
def test_min_snr_weighs_the_error_of_x0(prediction, schedule, t):
    """With MSE, w_t |error|^2 = min(snr, gamma) |error of x_0|^2, whatever the network predicts."""
    facts = Diffusion(prediction=prediction, schedule=schedule, loss="mse", weighting="min-snr", min_snr_gamma=5.0)
    tables, t = Schedule(facts), torch.tensor([t])
    x_0, eps, wrong = normals(3, 1, 3, 8, 8)
    x_t = q_sample(tables, x_0, t, eps)
    of = {"eps": predict_xstart_from_eps, "v": predict_xstart_from_v}
    guess = wrong if prediction == "x0" else of[prediction](tables, x_t, t, wrong)
    expected = tables.snr[t].clamp(max=5).float() * (guess - x_0).square().mean()
    assert_close(training_loss(facts, tables, wrong, x_0, x_t, t, eps).view(1), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("loss", ["charbonnier", "mse"])
def test_the_error_of_v_whatever_is_predicted(loss, prediction):
    """The same guess, said as eps, v or x_0, costs the same."""
    plain = Diffusion(prediction="v", loss=loss)
    tables, t = Schedule(plain), torch.tensor([20, 700])
    x_0, eps, v = normals(3, 2, 3, 8, 8)
    x_t, (signal, noise) = q_sample(tables, x_0, t, eps), tables.signal_and_noise(t)
    said = {"eps": noise * x_t + signal * v, "v": v, "x0": signal * x_t - noise * v}[prediction]
    facts = Diffusion(prediction=prediction, loss=loss, weighting="v")
    ours = training_loss(facts, Schedule(facts), said, x_0, x_t, t, eps)
    assert_close(ours, training_loss(plain, tables, v, x_0, x_t, t, eps), rtol=1e-5, atol=0)


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
