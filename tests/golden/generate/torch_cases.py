"""Golden cases from PyTorch nn.RNN / nn.LSTM / nn.GRU (CPU, float64).

Run:  vtorch/bin/python torch_cases.py        (torch==2.8.0, numpy==2.2.6, safetensors==0.8.0)

Layouts are PyTorch's: x [T,B,I]; y [T,B,D*O]; h0,hn [L*D,B,O]; c0,cn [L*D,B,H]
with O = proj_size or H, D = 2 if bidirectional else 1.
weight_ih_l{k}[_reverse] [G*H, I_k], weight_hh_l{k} [G*H, O], bias_ih_l{k}, bias_hh_l{k} [G*H],
weight_hr_l{k} [proj, H].  Gate order: LSTM i,f,g,o ; GRU r,z,n.
loss = sum(y*r_y) [+ sum(hn*r_hn) + sum(cn*r_cn) when "loss_terms" says so];
grad.<tensor> = dloss/d<tensor>.
"""

import numpy as np, torch, torch.nn as nn, warnings
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from common import Writer, seed_of

warnings.filterwarnings("ignore")
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

# (T,B,I,H), and with a fifth number the projection
DIMS = dict(
    tiny=(1, 1, 3, 5),
    small=(5, 3, 4, 6),
    mid=(7, 2, 5, 8),
    wide=(6, 4, 10, 32),
    long=(40, 2, 6, 12),
    odd=(9, 2, 7, 33),
    lens=(8, 5, 4, 6),
    proj=(6, 3, 5, 8, 3),
)
LENS = [8, 1, 5, 8, 3]


def mk(cell, I, H, L, bi, bias, proj=0):
    kw = dict(num_layers=L, bidirectional=bi, bias=bias)
    if cell == "rnn_tanh":
        return nn.RNN(I, H, nonlinearity="tanh", **kw)
    if cell == "rnn_relu":
        return nn.RNN(I, H, nonlinearity="relu", **kw)
    if cell == "lstm":
        return nn.LSTM(I, H, proj_size=proj, **kw)
    if cell == "gru":
        return nn.GRU(I, H, **kw)


def case(w, name, cell, dims, L=1, bi=False, bias=True, init=True, lengths=None, proj=0, states=True, wscale=1.0):
    T, B, I, H = dims
    rng = np.random.default_rng(seed_of(name))
    g = lambda *s, sc=1.0: torch.from_numpy((rng.standard_normal(s) * sc).astype(np.float32).astype(np.float64))
    m = mk(cell, I, H, L, bi, bias, proj)
    k = wscale / np.sqrt(H)
    with torch.no_grad():
        for p in m.parameters():
            p.copy_(torch.from_numpy(rng.uniform(-k, k, tuple(p.shape)).astype(np.float32).astype(np.float64)))
    D = 2 if bi else 1
    O = proj or H
    x = g(T, B, I)
    if lengths is not None:  # padding holds junk on purpose: it must not matter
        for b, l in enumerate(lengths):
            x[l:, b] = 7.5
    x.requires_grad_(True)
    h0 = g(L * D, B, O, sc=0.5).requires_grad_(True) if init else None
    c0 = g(L * D, B, H, sc=0.5).requires_grad_(True) if init and cell == "lstm" else None
    st = None if not init else ((h0, c0) if cell == "lstm" else h0)

    def fwd(m, x, st):
        inp = x if lengths is None else pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        y, s = m(inp, st)
        if lengths is not None:
            y, _ = pad_packed_sequence(y, total_length=T)
        return y, s

    y, s = fwd(m, x, st)
    hn, cn = s if cell == "lstm" else (s, None)
    r_y = g(*y.shape)
    loss = (y * r_y).sum()
    t = {}
    if states:
        r_hn = g(*hn.shape)
        loss = loss + (hn * r_hn).sum()
        t["r_hn"] = r_hn
        if cn is not None:
            r_cn = g(*cn.shape)
            loss = loss + (cn * r_cn).sum()
            t["r_cn"] = r_cn
    loss.backward()
    t.update(x=x, y=y, hn=hn, r_y=r_y, loss=loss)
    if cn is not None:
        t["cn"] = cn
    if h0 is not None:
        t["h0"] = h0
        t["grad.h0"] = h0.grad
    if c0 is not None:
        t["c0"] = c0
        t["grad.c0"] = c0.grad
    t["grad.x"] = x.grad
    for n, p in m.named_parameters():
        t[n] = p
        t["grad." + n] = p.grad
    if lengths is not None:
        t["lengths"] = np.array(lengths, np.int32)
    # how far plain f32 PyTorch is from the f64 answer: the tolerance is set from it
    import copy

    m32 = copy.deepcopy(m).float()
    m32.zero_grad()
    x32 = x.detach().float().requires_grad_(True)
    st32 = (
        None
        if st is None
        else (
            tuple(a.detach().float().requires_grad_(True) for a in st)
            if cell == "lstm"
            else st.detach().float().requires_grad_(True)
        )
    )
    y32, s32 = fwd(m32, x32, st32)
    h32 = s32[0] if cell == "lstm" else s32
    l32 = (y32 * r_y.float()).sum()
    if states:
        l32 = l32 + (h32 * r_hn.float()).sum()
        if cell == "lstm":
            l32 = l32 + (s32[1] * r_cn.float()).sum()
    l32.backward()
    ef = float((y32.double() - y).abs().max())
    eg = max(
        [
            float((a.grad.double() - b.grad).abs().max() / (1e-3 + b.grad.abs().max()))
            for a, b in zip(m32.parameters(), m.parameters())
        ]
        + [float((x32.grad.double() - x.grad).abs().max() / (1e-3 + x.grad.abs().max()))]
    )
    t = {k: (v.detach().numpy() if torch.is_tensor(v) else v) for k, v in t.items()}
    w.add(
        name,
        t,
        dict(
            oracle="torch " + torch.__version__.split("+")[0] + " cpu float64",
            cell=cell,
            dims=dict(T=T, B=B, I=I, H=H),
            layers=L,
            bidirectional=bi,
            bias=bias,
            initial_state=init,
            proj_size=proj,
            lengths=lengths,
            layout="TBI",
            gate_order={"lstm": "ifgo", "gru": "rzn"}.get(cell, ""),
            gru_reset="after" if cell == "gru" else None,
            loss_terms=["y"] + (["hn"] + (["cn"] if cell == "lstm" else []) if states else []),
            tol=dict(fwd_abs=max(2e-5, 30 * ef), grad_rel_to_max=max(2e-4, 50 * eg)),
            f32_error_seen=dict(fwd_abs=ef, grad_rel_to_max=eg),
        ),
    )


def train_case(w, name, cell, dims, opt, steps=12, L=1, bi=False, clip=None, task="regress"):
    """Full training loop: recurrent layer + linear readout, full-batch BPTT."""
    T, B, I, H = dims
    rng = np.random.default_rng(seed_of(name))
    C = 4 if task != "regress" else 2
    g = lambda *s, sc=1.0: torch.from_numpy((rng.standard_normal(s) * sc).astype(np.float32).astype(np.float64))
    m = mk(cell, I, H, L, bi, True)
    D = 2 if bi else 1
    lin = nn.Linear(D * H, C)
    ps = [("rnn." + n, p) for n, p in m.named_parameters()] + [("lin." + n, p) for n, p in lin.named_parameters()]
    k = 1 / np.sqrt(H)
    t = {}
    with torch.no_grad():
        for n, p in ps:
            p.copy_(torch.from_numpy(rng.uniform(-k, k, tuple(p.shape)).astype(np.float32).astype(np.float64)))
            t["init." + n] = p.detach().clone()
    x = g(T, B, I)
    t["x"] = x
    P = [p for _, p in ps]
    o = {
        "sgd": lambda: torch.optim.SGD(P, lr=0.1),
        "momentum": lambda: torch.optim.SGD(P, lr=0.05, momentum=0.9),
        "adam": lambda: torch.optim.Adam(P, lr=0.01),
        "rmsprop": lambda: torch.optim.RMSprop(P, lr=0.005, alpha=0.99, eps=1e-8),
    }[opt]()
    hyper = {
        "sgd": dict(lr=0.1),
        "momentum": dict(lr=0.05, momentum=0.9),
        "adam": dict(lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8),
        "rmsprop": dict(lr=0.005, alpha=0.99, eps=1e-8),
    }[opt]
    if task == "regress":
        tgt = g(T, B, C)
        lf = lambda z: ((z - tgt) ** 2).mean()
    elif task == "tag":
        tgt = torch.from_numpy(rng.integers(0, C, (T, B)))
        lf = lambda z: nn.functional.cross_entropy(z.reshape(-1, C), tgt.reshape(-1))
    else:
        tgt = torch.from_numpy(rng.integers(0, C, (B,)))
        lf = lambda z: nn.functional.cross_entropy(z[-1], tgt)
    t["target"] = tgt.numpy().astype(np.int32) if task != "regress" else tgt
    losses = []
    norms = []
    for _ in range(steps):
        o.zero_grad()
        l = lf(lin(m(x)[0]))
        l.backward()
        losses.append(l.item())
        n = torch.nn.utils.clip_grad_norm_(P, clip if clip else 1e30)
        norms.append(float(n))
        o.step()
    losses.append(lf(lin(m(x)[0])).item())
    t["losses"] = np.array(losses)
    t["grad_norms"] = np.array(norms)
    for n, p in ps:
        t["final." + n] = p.detach()
    t = {k: (v.numpy() if torch.is_tensor(v) else v) for k, v in t.items()}
    w.add(
        name,
        t,
        dict(
            oracle="torch " + torch.__version__.split("+")[0] + " cpu float64",
            cell=cell,
            dims=dict(T=T, B=B, I=I, H=H, C=C),
            layers=L,
            bidirectional=bi,
            bias=True,
            layout="TBI",
            gate_order={"lstm": "ifgo", "gru": "rzn"}.get(cell, ""),
            gru_reset="after" if cell == "gru" else None,
            optimizer=opt,
            hyper=hyper,
            clip_global_norm=clip,
            clip_note="coef = clip/(norm+1e-6) if < 1 (PyTorch clip_grad_norm_)" if clip else None,
            steps=steps,
            task=task,
            task_note={
                "regress": "loss=mean((lin(y)-target)^2) over T,B,C",
                "tag": "mean cross-entropy over all T*B steps, target [T,B] class ids",
                "classify": "mean cross-entropy on lin(y[T-1]), target [B]",
            }[task],
            tol=dict(losses_rel=1e-4, final_abs=2e-4),
        ),
    )


if __name__ == "__main__":
    d = DIMS
    w = Writer("torch")
    for cell in ("rnn_tanh", "rnn_relu", "lstm", "gru"):
        case(w, f"{cell}_L1", cell, d["small"], states=False)
        case(w, f"{cell}_L1_zero_init", cell, d["mid"], init=False, states=False)
        case(w, f"{cell}_L1_nobias", cell, d["small"], bias=False)
        case(w, f"{cell}_T1_B1", cell, d["tiny"])
        case(w, f"{cell}_L2", cell, d["mid"], L=2)
        case(w, f"{cell}_L1_bi", cell, d["small"], bi=True)
        case(w, f"{cell}_L3_bi", cell, d["small"], L=3, bi=True)
        case(w, f"{cell}_L2_bi_nobias", cell, d["mid"], L=2, bi=True, bias=False, init=False)
        case(w, f"{cell}_L1_lens", cell, d["lens"], lengths=LENS)
        case(w, f"{cell}_L2_bi_lens", cell, d["lens"], L=2, bi=True, lengths=LENS)
        case(w, f"{cell}_odd_hidden", cell, d["odd"])
        case(w, f"{cell}_wide", cell, d["wide"], states=False)
        case(w, f"{cell}_long", cell, d["long"], wscale=1.0 if cell != "rnn_relu" else 0.5)
    T, B, I, H, P = d["proj"]
    case(w, "lstm_proj_L1", "lstm", (T, B, I, H), proj=P)
    case(w, "lstm_proj_L2_bi", "lstm", (T, B, I, H), L=2, bi=True, proj=P)
    case(w, "lstm_proj_L1_lens", "lstm", (d["lens"][0], d["lens"][1], I, H), proj=P, lengths=LENS)
    # big pre-activations: saturation must not give NaN/Inf
    case(w, "lstm_saturated", "lstm", d["small"], wscale=30.0)
    case(w, "gru_saturated", "gru", d["small"], wscale=30.0)
    case(w, "rnn_tanh_saturated", "rnn_tanh", d["small"], wscale=30.0)
    w.close()
    w = Writer("train")
    dd = d["mid"]
    for cell in ("rnn_tanh", "lstm", "gru"):
        train_case(w, f"{cell}_sgd_regress", cell, dd, "sgd")
        train_case(w, f"{cell}_adam_tag", cell, dd, "adam", task="tag")
    train_case(w, "lstm_L2_bi_adam_classify", "lstm", dd, "adam", L=2, bi=True, task="classify")
    train_case(w, "gru_momentum_clip", "gru", dd, "momentum", clip=0.1, task="tag")
    train_case(w, "lstm_rmsprop_classify", "lstm", dd, "rmsprop", task="classify")
    w.close()
