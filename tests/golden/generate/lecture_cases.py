"""Golden cases for the textbook ("lecture") equations, plain numpy float64.

Run:  JAX_ENABLE_X64=1 venv/bin/python lecture_cases.py    (numpy==2.4.6; jax==0.7.2 only for the gradients,
                                                         which are checked against central differences)
All sequences start from s0 (and h0 for the LSTMs).  W_* multiply the previous hidden/state, U_* the input.
  rnn            s_t = phi(W s_{t-1} + U x_t + b)                          y_t = s_t
  lstm           o,i,f = sigma(W_* h_{t-1} + U_* x_t + b_*) ; s~ = phi(W h_{t-1} + U x_t + b)
                 s_t = f*s_{t-1} + i*s~ ; h_t = o*phi(s_t)                 y_t = h_t
  lstm_noforget  the same without f:  s_t = s_{t-1} + i*s~
  gru            o,i = sigma(W_* s_{t-1} + U_* x_t + b_*) ; s~ = phi(W (o*s_{t-1}) + U x_t + b)
                 s_t = (1-i)*s_{t-1} + i*s~                                y_t = s_t
phi = sigmoid in the lecture's own form ("activation": "sigmoid"); the usual tanh form is given too.
With a readout: z_t = V y_t + c, p_t = softmax(z_t), loss = sum_t -log p_t[target_t] ("loss_kind": "cross_entropy_sum")
else loss = sum(y*r_y).  grad.<tensor> = dloss/d<tensor>.
Layout: x [T,B,I], y [T,B,H], s0/h0 [B,H], W_* [H,H], U_* [H,I], b_* [H]  (row-major, out x in),
gates suffixes: _o _i _f _s (s = candidate; for the rnn no suffix), V [C,H], c [C].
"""

import os

os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
import numpy as np, jax, jax.numpy as jnp
from common import Writer, seed_of

GATES = {"rnn": [""], "lstm": ["_o", "_i", "_f", "_s"], "lstm_noforget": ["_o", "_i", "_s"], "gru": ["_o", "_i", "_s"]}


def forward(xp, cell, act, p, x, s0, h0):
    sig = lambda a: 1 / (1 + xp.exp(-a))
    phi = sig if act == "sigmoid" else xp.tanh
    aff = lambda g, h, xt: h @ p["W" + g].T + xt @ p["U" + g].T + (p["b" + g] if "b" + g in p else 0.0)
    s, h = s0, h0
    S = []
    Y = []
    for t in range(x.shape[0]):
        xt = x[t]
        if cell == "rnn":
            s = phi(aff("", s, xt))
            y = s
        elif cell in ("lstm", "lstm_noforget"):
            o = sig(aff("_o", h, xt))
            i = sig(aff("_i", h, xt))
            c = phi(aff("_s", h, xt))
            s = (sig(aff("_f", h, xt)) * s if cell == "lstm" else s) + i * c
            h = o * phi(s)
            y = h
        else:
            o = sig(aff("_o", s, xt))
            i = sig(aff("_i", s, xt))
            c = phi((o * s) @ p["W_s"].T + xt @ p["U_s"].T + (p["b_s"] if "b_s" in p else 0.0))
            s = (1 - i) * s + i * c
            y = s
        S.append(s)
        Y.append(y)
    return xp.stack(Y), xp.stack(S), s, h


def run(w, name, cell, dims, act="sigmoid", bias=True, init=True, readout=0, scale=1.0):
    T, B, I, H = dims
    rng = np.random.default_rng(seed_of("lecture" + name))
    q = lambda a: np.asarray(a).astype(np.float32).astype(np.float64)
    p = {}
    for g in GATES[cell]:
        p["W" + g] = q(rng.standard_normal((H, H)) * scale * 1.5 / np.sqrt(H))
        p["U" + g] = q(rng.standard_normal((H, I)) * scale / np.sqrt(I))
        if bias:
            p["b" + g] = q(rng.standard_normal(H) * 0.5)
    if readout:
        p["V"] = q(rng.standard_normal((readout, H)))
        p["c"] = q(rng.standard_normal(readout) * 0.3)
    lstm = cell.startswith("lstm")
    x = q(rng.standard_normal((T, B, I)))
    s0 = q(rng.standard_normal((B, H)) * 0.5) if init else np.zeros((B, H))
    h0 = (q(rng.uniform(0, 1, (B, H))) if init else np.zeros((B, H))) if lstm else None
    y, S, sT, hT = forward(np, cell, act, p, x, s0, h0)
    t = {"x": x, "y": y, "s_last": sT}
    if lstm:
        t["s"] = S
        t["h_last"] = hT
    if init:
        t["s0"] = s0
        if lstm:
            t["h0"] = h0
    if readout:
        tgt = rng.integers(0, readout, (T, B))
        t["target"] = tgt.astype(np.int32)

        def lossf(xp, p, x, s0, h0):
            z = forward(xp, cell, act, p, x, s0, h0)[0] @ p["V"].T + p["c"]
            z = z - z.max(-1, keepdims=True)
            lp = z - xp.log(xp.exp(z).sum(-1, keepdims=True))
            return -xp.take_along_axis(lp, xp.asarray(tgt)[..., None], -1).sum()

        z = y @ p["V"].T + p["c"]
        e = np.exp(z - z.max(-1, keepdims=True))
        t["logits"] = z
        t["probs"] = e / e.sum(-1, keepdims=True)
    else:
        r = q(rng.standard_normal(y.shape))
        t["r_y"] = r

        def lossf(xp, p, x, s0, h0):
            return (forward(xp, cell, act, p, x, s0, h0)[0] * r).sum()

    t["loss"] = np.array(lossf(np, p, x, s0, h0))
    J = lambda d: {k: jnp.asarray(v) for k, v in d.items()}
    args = (J(p), jnp.asarray(x), jnp.asarray(s0), None if h0 is None else jnp.asarray(h0))
    gp, gx, gs = jax.grad(lambda p, x, s0, h0: lossf(jnp, p, x, s0, h0), (0, 1, 2))(*args)
    gh = jax.grad(lambda h0: lossf(jnp, args[0], args[1], args[2], h0))(args[3]) if lstm else None
    # independent check of the gradients: central differences in numpy on random entries
    worst = 0.0
    for k in p:
        for _ in range(3):
            ix = tuple(rng.integers(0, n) for n in p[k].shape)
            e = 1e-5
            o = p[k][ix]
            p[k][ix] = o + e
            a = lossf(np, p, x, s0, h0)
            p[k][ix] = o - e
            b = lossf(np, p, x, s0, h0)
            p[k][ix] = o
            worst = max(worst, abs((a - b) / (2 * e) - float(gp[k][ix])))
    assert worst < 1e-6, (name, worst)
    t["grad.x"] = np.asarray(gx)
    if init:
        t["grad.s0"] = np.asarray(gs)
        if lstm:
            t["grad.h0"] = np.asarray(gh)
    for k in p:
        t[k] = p[k]
        t["grad." + k] = np.asarray(gp[k])
    w.add(
        name,
        t,
        dict(
            oracle="numpy float64 textbook loop",
            cell=cell,
            dims=dict(T=T, B=B, I=I, H=H, **({"C": readout} if readout else {})),
            activation=act,
            gate_activation="sigmoid",
            use_bias=bias,
            initial_state=init,
            gru_reset="before" if cell == "gru" else None,
            readout=bool(readout),
            loss_kind="cross_entropy_sum" if readout else "sum(y*r_y)",
            layout="TBI",
            tol=dict(fwd_abs=2e-5, grad_rel_to_max=2e-4),
        ),
    )


DIMS = dict(a=(6, 2, 3, 4), b=(1, 1, 2, 3), c=(25, 1, 5, 8), v=(5, 3, 4, 6))
if __name__ == "__main__":
    d = DIMS
    w = Writer("lecture")
    for cell in ("rnn", "lstm", "lstm_noforget", "gru"):
        for act in ("sigmoid", "tanh"):
            run(w, f"{cell}_{act}", cell, d["a"], act)
        run(w, f"{cell}_sigmoid_nobias_zero", cell, d["a"], bias=False, init=False)
        run(w, f"{cell}_sigmoid_T1", cell, d["b"])
        run(w, f"{cell}_sigmoid_long", cell, d["c"])
        run(w, f"{cell}_sigmoid_softmax_bptt", cell, d["v"], readout=5)
    w.close()
