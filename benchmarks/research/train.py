"""Trains one variant and prints one row per score. Arguments: key=value of the recipe below."""
import ast, io, math, os, sys, time
T0 = time.time()
import numpy as np, torch
from PIL import Image
from torch.nn import functional as F
from types import SimpleNamespace
import xray as X

c = SimpleNamespace(name="x", steps=2000, size=224, batch=128, seed=0, layers=18, lr=1e-3, wd=0.05, lcn=(20,), pre=0.0,
    sharp="wide", order="after", fam="oohcrdfb", shape=(2, 1, 1), radius=(0.03, 0.25), inside=0.85, clean=0.375, vis="raw",
    zoom=(0.9, 1.25), glob=0.0, graded=0, limit=0, threads=4, allfit=0)
for a in sys.argv[1:]:
    k, v = a.split("=", 1); assert hasattr(c, k), k
    try: v = ast.literal_eval(v)
    except Exception: pass
    setattr(c, k, v)
dev = "cuda" if torch.cuda.is_available() else "cpu"
torch.set_num_threads(c.threads)
torch.manual_seed(c.seed); torch.backends.cudnn.benchmark = True
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
P = np.load(os.path.join(os.path.dirname(os.path.abspath(__file__)), "pack.npz"))
def read(k):
    e = np.cumsum(P[k + "_len"]); b = P[k].tobytes(); s = [0, *e[:-1]]
    if c.limit: s, e = s[: c.limit], e[: c.limit]
    z = np.stack([np.asarray(Image.open(io.BytesIO(b[i:j])).convert("L"), np.uint8) for i, j in zip(s, e)])
    z = torch.from_numpy(z)[:, None].to(dev).float() / 255
    return z if c.size == 224 else F.interpolate(z, (c.size, c.size), mode="bilinear", align_corners=False, antialias=True)
D = {k: read(k) for k in ("fit", "cal", "test", "pneumonia")}
L = torch.from_numpy(np.unpackbits(P["lung"], axis=-1)[: len(D["fit"])])[:, None].to(dev).float()
if c.size != 224: L = F.interpolate(L, (c.size, c.size))
# the same images, blurred to the vertical differences of the pneumonia images, rank by rank
v, q = X.vertical(D["test"]), X.vertical(D["pneumonia"])
rank = (v.argsort().argsort().double() + 0.5) / len(v)
D["blurred"], sig = X.blur_to(D["test"], torch.quantile(q.double(), rank.to(q.device)).float())
lq, ln = q.log().cpu().numpy(), v.log().cpu().numpy()
PAIRS = np.abs(ln[:, None] - lq[None]) <= 0.05
def auc(n, a, pairs=None):
    n, a = np.asarray(n, np.float64), np.asarray(a, np.float64)
    s = (a[None] > n[:, None]) + 0.5 * (a[None] == n[:, None])
    return s.mean() if pairs is None else s[pairs].mean()

def pre(x):
    if c.pre: x = X.blur(x, c.pre)
    if not c.lcn: return x
    return torch.cat([X.lcn(x, s) if s else x for s in c.lcn], 1)
with torch.no_grad():
    z = pre(D["fit"]); mu, sd = z.mean((0, 2, 3), keepdim=True), z.std((0, 2, 3), keepdim=True)
def ready(x): return ((pre(x) - mu) / sd).contiguous(memory_format=torch.channels_last)
net = X.Net(z.shape[1], {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[c.layers]).to(dev).to(memory_format=torch.channels_last); del z
ps = list(net.parameters())
opt = torch.optim.AdamW(ps, lr=c.lr, weight_decay=c.wd, fused=dev == "cuda")
g = torch.Generator(device=dev).manual_seed(c.seed)
def draw():
    b = torch.randint(len(D["fit"]), (c.batch,), generator=g, device=dev)
    with torch.no_grad(): x, m = X.batch(D["fit"][b], L[b], g, c); return ready(x), m
ema, tl = [p.detach().clone() for p in ps], []
t0 = time.time(); net.train()
for it in range(1, c.steps + 1):
    for gr in opt.param_groups: gr["lr"] = c.lr * min(1, it / 100) * 0.5 * (1 + math.cos(math.pi * (it - 1) / c.steps))
    x, m = draw()
    with torch.autocast(dev, dtype=torch.bfloat16, enabled=dev == "cuda"): f, mm, h, im = net(x)
    t = F.adaptive_avg_pool2d(m, h.shape[-2:])
    loss = F.binary_cross_entropy_with_logits(h.float(), t)
    if c.glob: loss = loss + c.glob * F.binary_cross_entropy_with_logits(im.float()[:, 0], (t.flatten(1).sum(1) > 1).float())
    opt.zero_grad(set_to_none=True); loss.backward(); opt.step()
    d = min(0.998, (1 + it) / (10 + it))
    with torch.no_grad(): torch._foreach_lerp_(ema, [p.detach() for p in ps], 1 - d)
    if it % 50 == 0: tl.append(loss.item())
train_s = time.time() - t0
with torch.no_grad():
    for p, e in zip(ps, ema): p.copy_(e)
    for _ in range(30):
        with torch.autocast(dev, dtype=torch.bfloat16, enabled=dev == "cuda"): net(draw()[0])
net.eval()
W = L.mean((0, 1)); W = ((W + W.flip(-1)) / 2)[None, None]   # how often a place is lung
def features(x, flip=True):
    out = {}
    for i in range(0, len(x), 128):
        H = []
        for w in ((0, 1) if flip else (0,)):
            with torch.no_grad(), torch.autocast(dev, dtype=torch.bfloat16, enabled=dev == "cuda"):
                f, m, h, im = net(ready(x[i:i + 128].flip(-1) if w else x[i:i + 128]))
            f = [*f, m]
            atl = [F.interpolate(W, t.shape[-2:], mode="area") for t in f]
            gap = torch.cat([t.float().mean((2, 3)) for t in f], 1)
            ap = torch.cat([(t.float() * a).sum((2, 3)) / a.sum() for t, a in zip(f, atl)], 1)
            sq = torch.cat([t.float().var((2, 3)).clamp_min(0).sqrt() for t in f], 1)
            H.append(dict(h=h.float().flip(-1) if w else h.float(), gap=gap, atl=ap, std=sq, im=im.float()))
        for k in H[0]:
            out.setdefault(k, []).append(H[0][k]); 
            if flip: out.setdefault(k + "2", []).append((H[0][k] + H[1][k]) / 2)
    return {k: torch.cat(t) for k, t in out.items()}
E = {k: features(D[k]) for k in D}
def rand_blur(x, seed):
    gg = torch.Generator(device=dev).manual_seed(seed); return X.blur(x, X.logU(len(x), 0.4, 3.0, x, gg).view(-1) * c.size / 224)
E["fitb"] = features(rand_blur(D["fit"], 1))
S = {}
def add(n, f): S[n] = {k: f(E[k]).double().cpu().numpy() for k in ("cal", "test", "blurred", "pneumonia")}
aw = F.interpolate(W, E["test"]["h"].shape[-2:], mode="area")
for s in (0.02, 0.1, 0.3, 1.0): add(f"h{s}", lambda e: X.top_mean(e["h"], s))
add("h.1t", lambda e: X.top_mean(e["h2"], 0.1)); add("hatl", lambda e: (e["h"] * aw).mean((1, 2, 3)))
add("hatl.2", lambda e: X.top_mean(torch.where(aw > 0.3, e["h"], torch.full_like(e["h"], -12.0)), 0.1))
if c.glob: add("img", lambda e: e["im"][:, 0])
def dens(n, key, sl=slice(None), aug=0, nuis=0.0):
    a, b = E["fit"][key][:, sl].double(), E["fitb"][key][:, sl].double()
    m, cov = X.ledoit_wolf(torch.cat([a, b]) if aug else a)
    if nuis: dlt = b - a; cov = cov + nuis * (dlt.T @ dlt) / len(dlt)
    add(n, lambda e: X.mahalanobis(e[key][:, sl].double(), m, cov))
enc, mrg = slice(0, 896), slice(896, 960)
dens("d", "gap", enc); dens("dt", "gap2", enc); dens("daug", "gap", enc, aug=1); dens("dn1", "gap", enc, nuis=1.0); dens("dn10", "gap", enc, nuis=10.0)
dens("datl", "atl", enc); dens("datln", "atl", enc, nuis=3.0); dens("dmrg", "atl", mrg); dens("dstd", "std", enc, nuis=3.0); dens("d16", "gap", slice(128, 384), nuis=3.0); dens("d32", "gap", slice(384, 896), nuis=3.0)
dens("dn3t", "gap2", enc, nuis=3.0); dens("dall", "gap2", slice(None), nuis=3.0)
def z(n): m, s = S[n]["cal"].mean(), S[n]["cal"].std(); return {k: (t - m) / s for k, t in S[n].items()}
def mix(n, parts): S[n] = {k: sum(w * z(p)[k] for p, w in parts.items()) for k in S["d"]}
mix("h.1+d", {"h0.1": 1, "d": 1}); mix("h.1+dn3t", {"h.1t": 1, "dn3t": 1}); mix("h.1+2dn", {"h.1t": 1, "dn3t": 2}); mix("2h+dn", {"h.1t": 2, "dn3t": 1})
mix("h1+dn3t", {"h1.0": 1, "dn3t": 1}); mix("h.1+datln", {"h.1t": 1, "datln": 1}); mix("h.3+dn", {"h0.3": 1, "dn3t": 1}); mix("hatl+datln", {"hatl": 1, "datln": 1})
if c.glob: mix("img+dn", {"img": 1, "dn3t": 1}); mix("i+h+dn", {"img": 1, "h.1t": 1, "dn3t": 1})
def row(s):
    thr = np.sort(s["cal"])[min(len(s["cal"]) - 1, math.ceil(0.95 * (len(s["cal"]) + 1)) - 1)]
    return (auc(s["test"], s["pneumonia"]), auc(s["test"], s["pneumonia"], PAIRS), auc(s["test"], s["blurred"]), (s["test"] > thr).mean(), (s["pneumonia"] > thr).mean())
sh = dict(sharp=auc(-ln, -lq), matched=auc(-ln, -lq, PAIRS), pairs=int(PAIRS.sum()), sigma=[round(float(t), 2) for t in torch.quantile(sig, torch.tensor([0.05, 0.5, 0.95], device=dev))])
lines = [f"### {c.name} seed {c.seed} steps {c.steps} loss {np.mean(tl[-5:] or [0]):.4f} train {train_s:.0f}s total {time.time() - T0:.0f}s {1000 * train_s / c.steps:.1f} ms/it {sh}"]
for n, s in S.items(): r = row(s); lines.append(f"{c.name:10s} {n:10s} " + " ".join(f"{t:.3f}" for t in r))
out = os.environ.get("OUT", "out"); os.makedirs(out + "/rows", exist_ok=True)
open(f"{out}/rows/{c.name}_{c.seed}.txt", "w").write("\n".join(lines) + "\n")
sel = ("h0.1", "h.1t", "h1.0", "d", "dn3t", "datln", "h.1+d", "h.1+dn3t", "i+h+dn", "hatl+datln")
print(lines[0] + "\n" + "\n".join(l for l in lines[1:] if l.split()[1] in sel), flush=True)
np.savez_compressed(f"{out}/rows/s_{c.name}_{c.seed}.npz", **{f"{n}|{k}": t.astype(np.float32) for n, s in S.items() for k, t in s.items()})
if os.environ.get("SAVE"):
    torch.save({k: {j: t.half().cpu() for j, t in e.items() if j in ("gap2", "atl2", "std2", "h2", "im2")} for k, e in E.items() if k != "fitb" or True}, f"{out}/rows/f_{c.name}_{c.seed}.pt")
