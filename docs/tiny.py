"""The whole method in one file: blurring diffusion on images of 16x16, without the package, to be read in ten minutes.

`python docs/tiny.py [OUT.png]` trains for 1,600 steps on a CPU and draws OUT.png (default tiny.png). Images x are
(B, 3, 16, 16) in [-1, 1]; u and w are DCT coefficients of that shape. "The paper" is Hoogeboom and Salimans, "Blurring
Diffusion Models", ICLR 2023, arXiv 2209.05557. tests/test_tiny.py compares every function with the package.
"""

import sys
from itertools import pairwise

import torch
from PIL import Image
from torch import Tensor, nn

SIZE = 16
INDEX = torch.arange(SIZE, dtype=torch.float64)
DCT = torch.cos(torch.pi / SIZE * INDEX[:, None] * (INDEX + 0.5)) * ((1 + INDEX[:, None].clamp(max=1)) / SIZE) ** 0.5
LAMBDA = (torch.pi / SIZE * INDEX[:, None]) ** 2 + (torch.pi / SIZE * INDEX) ** 2  # eigenvalues of the Laplacian
START, END = torch.tensor([-10, 10], dtype=torch.float64).div(2).exp().atan()  # theta at log-SNR 10 and -10


def dct(x: Tensor) -> Tensor:
    """Orthonormal DCT: white noise stays white, and the inverse is the transpose."""
    return DCT @ x @ DCT.T


def idct(u: Tensor) -> Tensor:
    """Images of coefficients."""
    return DCT.T @ u @ DCT


def schedule(t: Tensor, paper: bool = False) -> tuple[Tensor, Tensor]:
    """alpha_t = a_t d_t (B, 1, 16, 16) and sigma_t (B, 1, 1, 1) at times t (B,) in [0, 1] (section 4 of the paper)."""
    theta = (START + (END - START) * t)[:, None, None, None]  # a_t = cos(theta), log-SNR = -2 log tan(theta) (appendix A)
    # Blur in pixels: the paper's 20 sin^2(pi t / 2) for images of 32, or this project's, in proportion to noise over signal.
    blur = 20 * SIZE / 32 * torch.sin(torch.pi / 2 * t[:, None, None, None]) ** 2 if paper else 0.5 * torch.tan(theta)
    d = (1 - 0.001) * torch.exp(-LAMBDA * blur**2 / 2) + 0.001  # Gaussian blur is heat flow for a time of blur^2 / 2
    return torch.cos(theta) * d, torch.sin(theta)


def diffuse(x: Tensor, t: Tensor, eps: Tensor, paper: bool = False) -> Tensor:
    """The state u_t = alpha_t DCT(x) + sigma_t DCT(eps), eps standard normal, as an image."""
    alpha, sigma = schedule(t, paper)
    return idct(alpha * dct(x)) + sigma * eps


class Model(nn.Module):
    """A U-Net in the whitened space, where its input and target have variance 1 at every time and frequency.

    With mean M and standard deviation S of the data's coefficients, x' = (DCT(x) - M) / S, and phi = atan2(alpha S, sigma):

        w = (u - alpha M) / sqrt(alpha^2 S^2 + sigma^2) = sin(phi) x' + cos(phi) eps     the network's input, as an image
        F = dw / dphi                                   = cos(phi) x' - sin(phi) eps     what it predicts
    """

    def __init__(self, images: Tensor, c: int = 32) -> None:
        super().__init__()
        self.mean, self.std = dct(images).mean(0), dct(images).std(0)
        self.blocks = nn.ModuleList(
            nn.Sequential(*[layer for n in (i, o) for layer in (nn.Conv2d(n, o, 3, padding=1), nn.GroupNorm(8, o), nn.SiLU())])
            for i, o in [(3 + 4, c), (c, 2 * c), (2 * c, 4 * c), (4 * c, 2 * c), (2 * c, c), (c, c)]
        )
        self.last = nn.Conv2d(c, 3, 1)

    def forward(self, w: Tensor, t: Tensor) -> Tensor:
        time = torch.cos(torch.pi * torch.arange(1, 5) * t[:, None])[:, :, None, None].expand(len(w), 4, SIZE, SIZE)
        h16 = self.blocks[0](torch.cat([idct(w), time], dim=1).float())
        h8 = self.blocks[1](nn.functional.avg_pool2d(h16, 2))
        h4 = self.blocks[2](nn.functional.avg_pool2d(h8, 2))
        h8 = h8 + nn.functional.interpolate(self.blocks[3](h4), scale_factor=2)
        return dct(self.last(self.blocks[5](h16 + nn.functional.interpolate(self.blocks[4](h8), scale_factor=2))).double())

    def angle(self, t: Tensor) -> Tensor:
        alpha, sigma = schedule(t)
        return torch.atan2(alpha * self.std, sigma)

    def loss(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The paper's, the squared error of eps, which is sin(phi) times that of F; weighted, so that late times count, too."""
        phi, white, noise = self.angle(t), (dct(x) - self.mean) / self.std, dct(eps)
        error = self(phi.sin() * white + phi.cos() * noise, t) - (phi.cos() * white - phi.sin() * noise)
        share = phi.sin() ** 2  # of the signal in the variance of u
        return (share * error**2 / (share / 4 + 3 / 4 * share.mean((1, 2, 3), keepdim=True) + 0.1)).mean()


def shapes(count: int) -> Tensor:
    """Images of a triangle, a square or a disk (a polygon of 60 sides) in any color on black."""
    sides, radius = torch.tensor([3, 4, 60])[torch.randint(3, (count, 1, 1))], 0.25 + 0.1 * torch.rand(count, 1, 1)
    center = radius + (1 - 2 * radius) * torch.rand(2, count, 1, 1)
    x, y = (INDEX + 0.5) / SIZE - center[0], (INDEX[:, None] + 0.5) / SIZE - center[1]
    turned = torch.remainder(torch.atan2(x, y) + torch.pi / sides, 2 * torch.pi / sides) - torch.pi / sides
    outside = torch.hypot(x, y) * torch.cos(turned) - radius * torch.cos(torch.pi / sides)  # distance to the nearest side
    color = 1 + torch.cos(2 * torch.pi * (torch.rand(count, 1) + torch.tensor([0, 1 / 3, 2 / 3])))
    return color[:, :, None, None] * (0.5 - SIZE * outside).clamp(0, 1)[:, None] - 1


def train(model: Model, steps: int, batch: int = 32) -> Model:
    """Train on new shapes in every step."""
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps, pct_start=0.1, cycle_momentum=False)
    for step in range(steps):
        x, t = shapes(batch), (torch.rand(1) + torch.arange(batch) / batch).double() % 1  # times evenly over the batch
        loss = model.loss(x, t, torch.randn_like(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", end="\r", flush=True)
    return model.requires_grad_(False)


def ancestral(model: Model, u: Tensor, steps: int) -> Tensor:
    """The paper's sampler: draws from q(u_s given u_t and x), with the network's estimate of x (section 3)."""
    for t, s in pairwise(torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:, None]):
        (alpha_t, sigma_t), (alpha_s, sigma_s), phi = schedule(t), schedule(s), model.angle(t)
        w = (u - alpha_t * model.mean) / torch.hypot(alpha_t * model.std, sigma_t)
        x = model.mean + model.std * (phi.sin() * w + phi.cos() * model(w, t))
        alpha_ts = alpha_t / alpha_s
        variance_ts = sigma_t**2 - alpha_ts**2 * sigma_s**2
        u = alpha_ts * (sigma_s / sigma_t) ** 2 * u + alpha_s * variance_ts / sigma_t**2 * x
        u = u + variance_ts.sqrt() * sigma_s / sigma_t * torch.randn_like(u)
    return idct(u)


def adams_bashforth(model: Model, w: Tensor, steps: int) -> Tensor:
    """This project's: the probability-flow ODE is dw / dphi = F, for every frequency with its own clock phi."""
    before = None
    for t, s in pairwise(torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:, None]):
        f, turn = model(w, t), model.angle(s) - model.angle(t)
        f_before, turn_before = before or (f, turn)
        w = w + turn * (f + (turn / turn_before).clamp(max=2) / 2 * (f - f_before))  # second order, from the last two slopes
        before = f, turn
    alpha, sigma = schedule(s)
    return idct(alpha * model.mean + torch.hypot(alpha * model.std, sigma) * w)


def main(path: str = "tiny.png", steps: int = 1600) -> None:
    """Draw training images, one on its way to noise (the paper's blur, this project's), and samples of both samplers."""
    torch.manual_seed(0)
    model = train(Model(shapes(4096)), steps)
    x, t, noise = shapes(16), torch.linspace(0, 1, 16).double(), torch.randn(48, 3, SIZE, SIZE).double()
    states = [diffuse(x[:1], t, noise[:16], paper) for paper in (True, False)]
    samples = torch.cat([ancestral(model, noise, steps=100), adams_bashforth(model, noise, steps=20)])
    rows = [torch.cat(list(nn.functional.pad(row, (1, 1, 1, 1))), dim=2) for row in [x, *states, *samples.split(16)]]
    pixels = ((torch.cat(rows, dim=1) + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0)
    Image.fromarray(pixels.repeat_interleave(4, 0).repeat_interleave(4, 1).contiguous().numpy()).save(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
