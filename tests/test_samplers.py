"""Samplers: official steps, exact solutions, orders of convergence, and the numbers of diffusers."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from tensors import normals
from torch.distributions import Normal
from torch.testing import assert_close

from vidm.config import Diffusion
from vidm.diffusion.gaussian import p_mean_variance, p_sample
from vidm.diffusion.samplers import METHODS, Ddim, Sampler
from vidm.diffusion.schedule import Schedule, at, respaced, space_timesteps

OFFICIAL = Diffusion(loss="mse", variance="learned-range", weighting="p2")
THEIR_NAMES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
VARIANCES = ("fixed-small", "fixed-large", "learned-range")


@pytest.mark.parametrize("chain, visited", [("full", (0, 500, 999)), ("ddim25", (0, 480, 960))])
@pytest.mark.parametrize("eta", [0, 1])
def test_one_ddim_step_is_the_official_one(q, chain, visited, eta):
    steps = torch.tensor(space_timesteps(1000, "1000" if chain == "full" else chain))
    method = Ddim(OFFICIAL, steps.flip(0), eta=float(eta), clip=True)
    for i, t in enumerate(visited):
        output, x_t, noise = (q[name][i : i + 1] for name in ("model_out", "x_t", "ddim_noise"))
        ours = method.step(torch.tensor(t), output, x_t, noise)
        assert_close(ours[0], q[f"ddim_{chain}_eta{eta}"][i], rtol=0, atol=1e-4)


SPACINGS = [("ddpm", 100, 990, 0), ("ddpm", 30, 966, 0), ("ddpm", 501, 998, 0)]
SPACINGS += [("ddim", 100, 999, 9), ("ddim", 30, 999, 32)]
SPACINGS += [("dpm-solver++", 20, 999, 0), ("sde-dpm-solver++", 20, 999, 0), ("unipc", 990, 999, 0)]


@pytest.mark.parametrize("name, steps, first, last", SPACINGS)
def test_spacing(name, steps, first, last):
    sampler = Sampler(Diffusion(), name, steps=steps, eta=0.0, clip=True)
    assert (len(sampler.timesteps), sampler.timesteps[0], sampler.timesteps[-1]) == (steps, first, last)
    assert sampler.draws == (steps if name in ("ddpm", "sde-dpm-solver++") else 0)
    assert (sampler.timesteps.diff() < 0).all()


@pytest.mark.parametrize("steps", [k for k in range(1, 1001) if 1000 % k == 0])
def test_ancestral_steps_that_divide_are_the_official_ones(steps):
    sampler = Sampler(Diffusion(), "ddpm", steps=steps, eta=0.0, clip=True)
    assert sampler.timesteps.tolist() == space_timesteps(1000, f"ddim{steps}")[::-1]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("steps", [0, 11])
def test_impossible_samplers_are_one_clear_line(name, steps):
    with pytest.raises(ValueError, match=f"^steps: {steps} is not within 1..10"):
        Sampler(Diffusion(steps=10), name, steps=steps, eta=0.0, clip=True)


def network(channels):
    """Any smooth function of x_t and t: (B, 3, H, W), (1,) -> (B, channels, H, W)."""
    mix = normals(channels, 3, seed=7)
    return lambda x, t: torch.tanh(torch.einsum("ij,bjhw->bihw", mix, x) + (t / 300).sin().view(-1, 1, 1, 1))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("name, steps", [("ddpm", 100), ("ddpm", 25), ("ddim", 20)])
def test_small_fixed_variance_is_the_ddim_of_diffusers(name, steps, prediction):
    """DDPM is DDIM at eta 1; and our DDIM is theirs to the bit."""
    facts = Diffusion(prediction=prediction)
    theirs = DDIMScheduler(
        1000,
        trained_betas=Schedule(facts).betas.float().numpy(),
        prediction_type=THEIR_NAMES[prediction],
        timestep_spacing="leading" if name == "ddpm" else "trailing",
    )
    theirs.set_timesteps(steps)
    if name == "ddpm":
        theirs.alphas_cumprod = Schedule(facts).alpha_bar  # theirs in fp32 is off by 1e-4 at the first steps
    predict, noise = network(3), normals(2, 1 + steps, 3, 4, 4)
    x = noise[:, 0]
    for i, t in enumerate(theirs.timesteps):
        options = {"eta": 1.0, "use_clipped_model_output": True, "variance_noise": noise[:, 1 + i]}
        x = theirs.step(predict(x, t.view(1)), t, x, **options).prev_sample
    ours = Sampler(facts, name, steps=steps, eta=1.0, clip=True)(predict, noise)
    assert_close(ours, x.clamp(-1, 1), rtol=0, atol=1e-5 if name == "ddpm" else 0)


@pytest.mark.parametrize("prediction, schedule", [("eps", "linear"), ("v", "cosine"), ("x0", "linear")])
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
        prediction_type=THEIR_NAMES[prediction],
    )
    method = Sampler(facts, "ddpm", steps=steps, eta=0.0, clip=True).method
    theirs.set_timesteps(timesteps=method.timesteps.tolist())
    theirs.alphas_cumprod = Schedule(facts).alpha_bar  # theirs in fp32 is off by 1e-4 at the first steps
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
        output = {"eps": eps, "v": math.sqrt(a) * eps - math.sqrt(1 - a) * x_0, "x0": x_0}[facts.prediction]
        if chain is None:
            return output
        i = chain.timesteps.tolist().index(int(t))
        # Var(x_{t-1} | x_t): the posterior's, and what is unknown of x_0.
        exact = chain.posterior_variance[i] + chain.posterior_mean_coef1[i] ** 2 * S * S * (1 - a) / spread
        low, high = chain.posterior_log_variance_clipped[i], chain.betas[i].log()
        return torch.cat([output, torch.full_like(output, 2 * (exact.log() - low) / (high - low) - 1)], dim=1)

    return predict


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
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
        output = {"eps": eps, "v": a**0.5 * eps - (1 - a) ** 0.5 * x_0, "x0": x_0}[facts.prediction].float()
        return output if facts.variance == "fixed-small" else torch.cat([output, torch.ones_like(output)], dim=1)

    return predict


@pytest.mark.parametrize(
    "prediction, variance", [("eps", "learned-range"), ("v", "fixed-small"), ("x0", "fixed-small")]
)
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
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
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


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("steps", [10, 100, 501, 600])
def test_the_right_variance_samples_a_gaussian_with_any_number_of_steps(steps, prediction):
    """Exactly, but for the noise of the first step of training; so the chain begins where next to no signal is left."""
    facts = Diffusion(variance="learned-range", prediction=prediction)
    chain = respaced(Schedule(facts), Sampler(facts, "ddpm", steps, 0.0, clip=False).timesteps.flip(0))
    mean, spread = sampled_moments(facts, steps, chain)
    assert mean == pytest.approx(MU, abs=1e-4)
    assert spread == pytest.approx(S * S, abs=2e-4)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
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


@pytest.mark.parametrize("name", METHODS)
def test_an_output_may_be_overwritten(name):
    """As a CUDA graph does, which writes each output to the same place."""
    sampler = Sampler(Diffusion(steps=20, prediction="x0"), name, 4, 0.0, clip=False)
    noise, place = normals(1, 1 + sampler.draws, 3, 4, 4), torch.empty(1, 3, 4, 4)
    found = [
        sampler(lambda x, t, fixed=fixed: place.copy_(x / 2) if fixed else x / 2, noise) for fixed in (False, True)
    ]
    assert torch.equal(*found)
    assert sampler.start(noise).x.is_contiguous(), "like the later ones: a graph holds for one shape in memory"
