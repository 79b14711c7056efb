"""Golden cases from Keras 3 SimpleRNN / LSTM / GRU / Bidirectional (JAX backend, CPU, float64).

Run:  KERAS_BACKEND=jax JAX_ENABLE_X64=1 venv/bin/python keras_cases.py   (keras==3.11.3, jax==0.7.2)

Layouts are Keras': x [B,T,I]; y [B,T,H] (return_sequences=True) or [B,H]; states [B,H].
kernel [I,G*H], recurrent_kernel [H,G*H], bias [G*H] (GRU with reset_after=True: bias [2,3H],
row 0 input bias, row 1 recurrent bias).  Gate order: LSTM i,f,c,o ; GRU z,r,h.
GRU: h = z*h_prev + (1-z)*hh.  Keras-3 hard_sigmoid(x) = clip(x/6+0.5, 0, 1)  (Keras 2 used 0.2x+0.5).
mask [B,T] 1=valid: a masked step copies the state and outputs the carried h.  (Keras' backends disagree on a masked step
before the first valid one when the initial state is not zero - JAX gives h0, TensorFlow/torch give zeros - so no case has that.)
Bidirectional with a mask and return_sequences: a masked step outputs ZERO instead (Keras sets zero_output_for_mask).
go_backwards: the sequence is read from its end and y is NOT put back into forward order.
loss = sum(y*r_y); grad.<tensor> = dloss/d<tensor>.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_ENABLE_X64", "1")
import numpy as np, keras, jax, jax.numpy as jnp
from common import Writer, seed_of

keras.config.set_floatx("float64")
L = keras.layers
ORACLE = f"keras {keras.__version__} / jax {jax.__version__} cpu float64"

DIMS = dict(a=(3, 5, 4, 6), b=(2, 8, 3, 9))
MASK = [[1, 1, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 0, 1, 1]]


def run(
    w,
    name,
    cell,
    dims,
    act="tanh",
    ract="sigmoid",
    bias=True,
    back=False,
    seq=True,
    mask=None,
    init=True,
    reset_after=True,
    bi=None,
):
    B, T, I, H = dims
    rng = np.random.default_rng(seed_of("keras" + name))
    g = lambda *s, sc=1.0: (rng.standard_normal(s) * sc).astype(np.float32).astype(np.float64)
    kw = dict(units=H, activation=act, use_bias=bias, return_sequences=seq, return_state=True)
    if bi is None:
        kw["go_backwards"] = back
    if cell == "simple_rnn":
        mk = lambda: L.SimpleRNN(**kw)
    elif cell == "lstm":
        mk = lambda: L.LSTM(recurrent_activation=ract, **kw)
    else:
        mk = lambda: L.GRU(recurrent_activation=ract, reset_after=reset_after, **kw)
    lay = mk() if bi is None else L.Bidirectional(mk(), merge_mode=bi)
    lay.build((B, T, I))
    k = 1.2 / np.sqrt(H)
    ws = []
    for v in lay.trainable_variables:
        a = rng.uniform(-k, k, v.shape).astype(np.float32).astype(np.float64)
        v.assign(a)
        ws.append(jnp.asarray(a))
    x = g(B, T, I)
    ns = (2 if cell == "lstm" else 1) * (2 if bi else 1)
    st = [jnp.asarray(g(B, H, sc=0.5)) for _ in range(ns)] if init else None
    m = None if mask is None else jnp.asarray(np.array(mask, bool))
    if m is not None:
        x = np.where(np.array(mask, bool)[:, :, None], x, 9.0)

    def f(ws, x, st):
        kk = {}
        if st is not None:
            kk["initial_state"] = list(st)
        if m is not None:
            kk["mask"] = m
        out, _ = lay.stateless_call(ws, [v.value for v in lay.non_trainable_variables], x, **kk)
        return out

    out = f(ws, jnp.asarray(x), st)
    y = out[0]
    states = out[1:]
    r = jnp.asarray(g(*y.shape))
    loss = lambda ws, x, st: (f(ws, x, st)[0] * r).sum()
    if st is not None:
        gw, gx, gs = jax.grad(loss, (0, 1, 2))(ws, jnp.asarray(x), st)
    else:
        gw, gx = jax.grad(loss, (0, 1))(ws, jnp.asarray(x), None)
        gs = None
    t = {
        "x": x,
        "y": np.asarray(y),
        "r_y": np.asarray(r),
        "loss": np.asarray(loss(ws, jnp.asarray(x), st)),
        "grad.x": np.asarray(gx),
    }
    nm = ["h", "c"] if cell == "lstm" else ["h"]
    names = nm if bi is None else ["fwd_" + n for n in nm] + ["bwd_" + n for n in nm]
    for n, s in zip(names, states):
        t["final_" + n] = np.asarray(s)
    if st is not None:
        for n, s, gg in zip(names, st, gs):
            t["init_" + n] = np.asarray(s)
            t["grad.init_" + n] = np.asarray(gg)
    wn = ["kernel", "recurrent_kernel"] + (["bias"] if bias else [])
    if bi:
        wn = ["fwd_" + n for n in wn] + ["bwd_" + n for n in wn]
    assert len(wn) == len(ws)
    for n, v, gg in zip(wn, ws, gw):
        t[n] = np.asarray(v)
        t["grad." + n] = np.asarray(gg)
    if mask is not None:
        t["mask"] = np.array(mask, np.int32)
    w.add(
        name,
        t,
        dict(
            oracle=ORACLE,
            cell=cell,
            dims=dict(B=B, T=T, I=I, H=H),
            activation=act,
            recurrent_activation=ract if cell != "simple_rnn" else None,
            use_bias=bias,
            go_backwards=back,
            return_sequences=seq,
            masked=mask is not None,
            initial_state=init,
            gru_reset=("after" if reset_after else "before") if cell == "gru" else None,
            bidirectional=bi is not None,
            merge_mode=bi,
            layout="BTI",
            gate_order={"lstm": "ifco", "gru": "zrh"}.get(cell, ""),
            hard_sigmoid="clip(x/6+0.5,0,1)" if "hard_sigmoid" in (act, ract) else None,
            mask_rule=(
                None
                if mask is None
                else ("masked step: state carried, y=0" if bi else "masked step: state carried, y=carried h")
            ),
            tol=dict(fwd_abs=2e-5, grad_rel_to_max=2e-4),
        ),
    )


if __name__ == "__main__":
    d = DIMS
    w = Writer("keras")
    M = MASK
    for act in ("tanh", "relu", "sigmoid"):
        run(w, f"simple_rnn_{act}", "simple_rnn", d["a"], act=act)
    run(w, "simple_rnn_nobias_last", "simple_rnn", d["b"], bias=False, seq=False, init=False)
    run(w, "simple_rnn_backwards", "simple_rnn", d["a"], back=True)
    run(w, "simple_rnn_mask", "simple_rnn", d["b"], mask=M, init=True)
    for act in ("tanh", "sigmoid", "relu"):
        for ract in ("sigmoid", "hard_sigmoid"):
            run(w, f"lstm_{act}_{ract}", "lstm", d["a"], act=act, ract=ract)
    run(w, "lstm_nobias_last", "lstm", d["b"], bias=False, seq=False, init=False)
    run(w, "lstm_backwards", "lstm", d["a"], back=True)
    run(w, "lstm_mask", "lstm", d["b"], mask=M, init=True)
    run(w, "lstm_mask_last_backwards", "lstm", d["b"], mask=M, seq=False, back=True)
    for ra in (True, False):
        n = "after" if ra else "before"
        for act, ract in (("tanh", "sigmoid"), ("tanh", "hard_sigmoid"), ("sigmoid", "sigmoid")):
            run(w, f"gru_{n}_{act}_{ract}", "gru", d["a"], act=act, ract=ract, reset_after=ra)
        run(w, f"gru_{n}_nobias_last", "gru", d["b"], bias=False, seq=False, init=False, reset_after=ra)
        run(w, f"gru_{n}_backwards", "gru", d["a"], back=True, reset_after=ra)
        run(w, f"gru_{n}_mask", "gru", d["b"], mask=M, reset_after=ra, init=True)
    for mm in ("concat", "sum", "mul", "ave"):
        run(w, f"bi_lstm_{mm}", "lstm", d["a"], bi=mm)
    run(w, "bi_gru_after_concat_mask", "gru", d["b"], bi="concat", mask=M, init=False)
    run(w, "bi_gru_before_concat", "gru", d["a"], bi="concat", reset_after=False)
    run(w, "bi_simple_rnn_last", "simple_rnn", d["a"], bi="concat", seq=False)
    w.close()
