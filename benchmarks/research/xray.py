"""Chest X-ray: pre-processing, normal variation, anomaly families, network, density. Pure PyTorch."""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

G = torch.Generator


# ---------------------------------------------------------------- filters
def blur(x: Tensor, sigma: float | Tensor) -> Tensor:
    """Gaussian blur of (B, C, H, W); one sigma, or one per image (B,). Renormalised at borders."""
    s = torch.as_tensor(sigma, device=x.device, dtype=torch.float32).reshape(-1, 1, 1, 1)
    def matrix(n: int) -> Tensor:
        i = torch.arange(n, device=x.device, dtype=torch.float32)
        k = torch.exp(-0.5 * (i[:, None] - i[None]) ** 2 / s.clamp_min(1e-2) ** 2)
        return k / k.sum(-1, keepdim=True)
    return matrix(x.shape[-2]) @ x @ matrix(x.shape[-1]).mT


def lcn(x: Tensor, sigma: float = 20.0, floor: float = 0.03) -> Tensor:
    """Local contrast normalisation to about [0, 1]; sigma in pixels of 224."""
    s = sigma * x.shape[-1] / 224
    m = blur(x, s)
    d = blur((x - m) ** 2, s).clamp_min(1e-6).sqrt() + floor
    return ((x - m) / d * 0.18 + 0.5).clamp(0, 1)


def vertical(x: Tensor) -> Tensor:
    return (x[:, 0, 1:] - x[:, 0, :-1]).abs().mean((1, 2))


def blur_to(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Blurs each image until its vertical difference is `target` (none where it is already less)."""
    low, high = torch.full_like(target, 0.01), torch.full_like(target, 12.0)
    for _ in range(16):
        mid = (low + high) / 2
        sharp = vertical(blur(x, mid)) > target
        low, high = torch.where(sharp, mid, low), torch.where(sharp, high, mid)
    s = torch.where(vertical(x) > target, (low + high) / 2, torch.full_like(low, 0.01))
    return (blur(x, s) * 255).round().div(255), s


# ---------------------------------------------------------------- random numbers
def U(n: int, a: float, b: float, x: Tensor, g: G) -> Tensor:
    return torch.rand((n, 1, 1, 1), generator=g, device=x.device) * (b - a) + a


def logU(n: int, a: float, b: float, x: Tensor, g: G) -> Tensor:
    return U(n, math.log(a), math.log(b), x, g).exp()


def noise(x: Tensor, g: G, grids: tuple[int, ...]) -> Tensor:
    t = 0.0
    for k in grids:
        c = torch.randn((len(x), 1, k, k), generator=g, device=x.device)
        t = t + F.interpolate(c, size=x.shape[-2:], mode="bilinear", align_corners=False)
    return t / math.sqrt(len(grids))


# ---------------------------------------------------------------- normal variation
def move(x: Tensor, g: G, zoom=(0.9, 1.25), rotation=10.0, shift=0.1) -> Tensor:
    n = len(x)
    a = (U(n, -rotation, rotation, x, g) * math.pi / 180).view(n)
    s = 1 / U(n, *zoom, x, g).view(n)
    f = torch.where(U(n, 0, 1, x, g).view(n) < 0.5, -1.0, 1.0)
    t = torch.rand((n, 2), generator=g, device=x.device) * 2 * shift - shift
    c, d = torch.cos(a) * s, torch.sin(a) * s
    th = torch.stack([torch.stack([c * f, -d, t[:, 0]], 1), torch.stack([d * f, c, t[:, 1]], 1)], 1)
    return F.grid_sample(x, F.affine_grid(th, list(x.shape), align_corners=False), padding_mode="reflection", align_corners=False)


def vary_sharpness(x: Tensor, g: G, kind: str) -> Tensor:
    """`old`: gain of the high pass in -1..1.5; `wide`: often a Gaussian of any sigma up to 3 px."""
    n = len(x)
    mix, gain, use = U(n, 0, 1, x, g), U(n, -1, 1.5, x, g), U(n, 0, 1, x, g)
    y = torch.where(use < 0.7, x + gain * (x - mix * blur(x, 0.8) - (1 - mix) * blur(x, 2.0)), x)
    if kind == "old":
        return y
    k = x.shape[-1] / 224
    sigma = logU(n, 0.4 * k, 3.0 * k, x, g)
    return torch.where(U(n, 0, 1, x, g) < 0.6, blur(x if kind == "pure" else y, sigma.view(-1)), y)


def vary_intensity(x: Tensor, g: G, level=0.03, gamma=0.3) -> Tensor:
    n = len(x)
    y = x.clamp(1e-4, 1) ** U(n, -gamma, gamma, x, g).exp()
    m = y.mean((1, 2, 3), keepdim=True)
    y = (y - m) * U(n, 0.8, 1.2, x, g) + m + U(n, -0.1, 0.1, x, g)
    return (y + U(n, 0, level, x, g) * torch.randn(x.shape, generator=g, device=x.device)).clamp(0, 1)


# ---------------------------------------------------------------- anomalies: shapes
def ellipses(x: Tensor, allowed: Tensor, g: G, radius=(0.03, 0.25)) -> Tensor:
    n, (h, w) = len(x), x.shape[-2:]
    p = torch.rand((n, h * w), generator=g, device=x.device).clamp(1e-9, 1 - 1e-7)
    i = (-torch.log(-torch.log(p)) + (allowed.flatten(1) + 1e-6).log()).argmax(1).view(n, 1, 1, 1)
    r = logU(2 * n, *radius, x, g).view(2, n, 1, 1, 1) * min(h, w)
    r = torch.maximum(r, r.amax(0, keepdim=True) / 3)
    a = U(n, 0, math.pi, x, g)
    rows = torch.arange(h, device=x.device).view(1, 1, -1, 1) - i // w
    cols = torch.arange(w, device=x.device).view(1, 1, 1, -1) - i % w
    along, across = cols * a.cos() + rows * a.sin(), rows * a.cos() - cols * a.sin()
    d = ((along / r[0]) ** 2 + (across / r[1]) ** 2).sqrt()
    border = U(n, 0.1, 0.7, x, g) * noise(x, g, (8, 16, 32))
    return torch.sigmoid((1 + border - d) / (0.25 * U(n, 0.05, 0.5, x, g)))


def patches(x: Tensor, g: G) -> Tensor:
    """Many foci at once: smooth noise above a threshold."""
    fine = U(len(x), 0, 1, x, g)
    z = torch.where(fine < 0.5, noise(x, g, (6, 12)), noise(x, g, (12, 24)))
    return torch.sigmoid((z - U(len(x), 0.2, 1.2, x, g)) / U(len(x), 0.08, 0.4, x, g))


def diffuse(x: Tensor, g: G) -> Tensor:
    """One side or both, modulated slowly."""
    side, w = U(len(x), 0, 1, x, g), x.shape[-1]
    left = (torch.arange(w, device=x.device) < w / 2).float().view(1, 1, 1, -1)
    half = torch.where(side < 0.25, left, torch.where(side < 0.5, 1 - left, torch.ones_like(left)))
    return blur(half.expand(-1, 1, x.shape[-2], -1), 4.0) * torch.sigmoid(1.5 * noise(x, g, (4, 8)) + 0.5)


# ---------------------------------------------------------------- anomalies: what is inside
def opacity(x, g): return x + 0.35 * U(len(x), 0.15, 1, x, g) * (1 + 0.3 * noise(x, g, (16, 32)))
def darkening(x, g): return x - 0.35 * U(len(x), 0.15, 1, x, g) * (1 + 0.3 * noise(x, g, (16, 32)))
def haze(x, g):
    t = U(len(x), 0.3, 0.95, x, g) + 0.05 * noise(x, g, (16, 32))
    return x + U(len(x), 0.15, 1, x, g) * (t - x)
def foreign(x, g):
    h, w = x.shape[-2:]
    s = torch.randint(1, h // 2, (2,), generator=g, device=x.device)
    y = torch.roll(x, 1, 0)
    y = y[:, :, (torch.arange(h, device=x.device) + s[0]) % h][:, :, :, (torch.arange(w, device=x.device) + s[1]) % w]
    return torch.where(U(len(x), 0, 1, x, g) < 0.5, y, y.flip(-2))
def blurred(x, g): return x + U(len(x), 0.6, 1, x, g) * (blur(x, 4.0) - x)
def flattened(x, g):
    """Vessels and ribs lose contrast while the region brightens: what consolidation does."""
    m = blur(x, 8.0)
    return m + U(len(x), 0.2, 0.8, x, g) * (x - m) + U(len(x), 0.0, 0.25, x, g) * (1 + 0.2 * noise(x, g, (16, 32)))
def reticular(x, g):
    n = torch.randn(x.shape, generator=g, device=x.device)
    s = logU(len(x), 0.8, 2.5, x, g).view(-1)
    b = blur(n, s) - blur(n, 2.8 * s)
    b = b / b.std((1, 2, 3), keepdim=True)
    return x + U(len(x), 0.02, 0.1, x, g) * b + U(len(x), 0, 0.15, x, g)


FILLINGS = {"o": opacity, "h": haze, "d": darkening, "f": foreign, "b": blurred, "c": flattened, "r": reticular}


def paste(x: Tensor, lung: Tensor, g: G, c) -> tuple[Tensor, Tensor]:
    """Pastes one anomaly into every image. c.fam: a letter per turn; c.shape: ratio e,p,d."""
    n = len(x)
    k = torch.randint(len(c.fam), (n,), generator=g, device=x.device)
    gate = torch.where(U(n, 0, 1, x, g) < c.inside, lung, torch.ones_like(lung))
    soft = ellipses(x, (lung > 0.5).float(), g, c.radius) * gate
    e, p, d = c.shape
    if p + d > 0:
        t = U(n, 0, e + p + d, x, g)
        soft = torch.where(t < e, soft, torch.where(t < e + p, patches(x, g), diffuse(x, g)) * lung)
    fill = x
    for letter in dict.fromkeys(c.fam):
        turns = torch.tensor([l == letter for l in c.fam], device=x.device)
        fill = torch.where(turns[k].view(-1, 1, 1, 1), FILLINGS[letter](x, g), fill)
    y = (x + soft * (fill - x)).clamp(0, 1)
    if c.vis == "lcn":
        seen = blur((lcn(y) - lcn(x)).abs(), 1.5) > 0.02
    else:
        seen = blur((y - x).abs(), 1.5) > 0.015
    return y, ((soft > 0.4) & seen).float()


def batch(x: Tensor, lung: Tensor, g: G, c) -> tuple[Tensor, Tensor]:
    """Normal images and lungs to training images and masks. Order: geometry, anomalies, sharpness, intensity."""
    m = move(torch.cat([x, lung], 1), g, c.zoom)
    x, lung = m[:, :1], blur((m[:, 1:] > 0.5).float(), 3.0).clamp(0, 1)
    if c.order == "before":
        x = vary_intensity(vary_sharpness(x, g, c.sharp), g)
    n = len(x); clean = round(c.clean * n); x = x.clone(); mask = torch.zeros_like(x)
    for start in (clean, n - round(0.4 * (n - clean))):
        x[start:], m = paste(x[start:], lung[start:], g, c)
        mask[start:] = torch.maximum(mask[start:], m)
    if c.order == "after":
        x = vary_intensity(vary_sharpness(x, g, c.sharp), g)
    return x, mask


# ---------------------------------------------------------------- network
class Block(nn.Module):
    def __init__(self, i: int, o: int, s: int):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o)
        self.c2, self.b2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.d = nn.Sequential(nn.Conv2d(i, o, 1, s, bias=False), nn.BatchNorm2d(o)) if s > 1 or i != o else nn.Identity()
        for m in self.modules():
            if isinstance(m, nn.Conv2d): nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    def forward(self, x): return F.relu(self.b2(self.c2(F.relu(self.b1(self.c1(x))))) + self.d(x))


class Net(nn.Module):
    """ResNet with the head of networks/head.py; returns features of strides 8, 16, 32, merged features, logits."""
    def __init__(self, channels: int = 1, layers=(2, 2, 2, 2), width: int = 64):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        nn.init.kaiming_normal_(self.stem[0].weight, mode="fan_out", nonlinearity="relu")
        stages, i = [], 64
        for o, n in zip((64, 128, 256, 512), layers):
            stages.append(nn.Sequential(*[Block(i if j == 0 else o, o, 2 if j == 0 and o > 64 else 1) for j in range(n)])); i = o
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList(nn.Conv2d(o, width, 1) for o in (128, 256, 512))
        conv = lambda: (nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU())
        self.merge = nn.Sequential(*conv(), *conv())
        self.classify = nn.Conv2d(width, 1, 1); nn.init.constant_(self.classify.bias, -2.0)
        self.image = nn.Linear(896, 1)
    def forward(self, x):
        x, f = self.stages[0](self.stem(x)), []
        for s in list(self.stages)[1:]:
            x = s(x); f.append(x)
        m = self.lateral[0](f[0])
        for l, t in zip(list(self.lateral)[1:], f[1:]): m = m + F.interpolate(l(t), size=m.shape[2:], mode="nearest")
        m = self.merge(m)
        pooled = torch.cat([t.float().mean((2, 3)) for t in f], 1)
        return f, m, self.classify(m), self.image(pooled)


# ---------------------------------------------------------------- density
def ledoit_wolf(a: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and shrunk covariance (Ledoit and Wolf 2004), as scikit-learn's LedoitWolf."""
    m = a.mean(0); x = a - m; n, p = x.shape
    s = x.T @ x / n; mu = s.trace() / p
    d2 = ((s - mu * torch.eye(p, device=a.device, dtype=a.dtype)) ** 2).sum() / p
    b2 = ((((x ** 2).T @ (x ** 2)) / n - s ** 2).sum() / n / p).clamp(max=d2)
    w = b2 / d2
    return m, (1 - w) * s + w * mu * torch.eye(p, device=a.device, dtype=a.dtype)


def mahalanobis(a: Tensor, m: Tensor, cov: Tensor) -> Tensor:
    l = torch.linalg.cholesky(cov)
    return torch.linalg.solve_triangular(l, (a - m).T, upper=False).norm(dim=0)


def top_mean(v: Tensor, share: float) -> Tensor:
    f = v.flatten(1)
    return f.topk(max(1, round(share * f.shape[1])), 1).values.mean(1)
