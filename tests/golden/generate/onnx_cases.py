"""Cases run by ONNX Runtime on random data: directions, peepholes, clip, activations, input_forget,
linear_before_reset, sequence_lens, initial states; outputs Y, Y_h, Y_c.

Run: venv/bin/python onnx_cases.py      (onnx==1.19.1, onnxruntime==1.22.1)
ONNX layouts: X [T,B,I] (layout 0) or [B,T,I] (layout 1); W [D,G*H,I]; R [D,G*H,H]; B [D,2*G*H] = Wb then Rb;
P [D,3H] order i,o,f; Y [T,D,B,H] (layout 1: [B,T,D,H]); Y_h,Y_c [D,B,H] (layout 1: [B,D,H]).
Gate order: LSTM i,o,f,c ; GRU z,r,h.  GRU: Ht=(1-z)*ht + z*H(t-1).
activations: per direction, LSTM f,g,h = (gates, cell input, cell output); GRU f,g; RNN f.
HardSigmoid default alpha .2 beta .5; LeakyRelu alpha .01; Elu alpha 1; ScaledTanh alpha/beta given; clip: pre-activation clamp.
"""

import numpy as np, onnxruntime as ort
from onnx import helper, TensorProto
from common import Writer, seed_of

ort.set_default_logger_severity(3)
IN = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
OUT = ["Y", "Y_h", "Y_c"]
GO = {"LSTM": "iofc", "GRU": "zrh", "RNN": ""}
G = {"LSTM": 4, "GRU": 3, "RNN": 1}


def meta(op, attrs, X, H, D, oracle, extra=None):
    lay = attrs.get("layout", 0)
    T, B, I = X.shape if lay == 0 else (X.shape[1], X.shape[0], X.shape[2])
    d = dict(
        oracle=oracle,
        cell=op.lower(),
        dims=dict(T=T, B=B, I=I, H=H),
        directions=D,
        attributes=attrs,
        layout="TBI" if lay == 0 else "BTI",
        gate_order=GO[op],
        gru_reset=("after" if attrs.get("linear_before_reset", 0) else "before") if op == "GRU" else None,
    )
    d.update(extra or {})
    return d


def run(w, name, op, T, B, I, H, direction="forward", bias=True, lens=None, init=True, peep=False, **attrs):
    rng = np.random.default_rng(seed_of("ort" + name))
    Dn = 2 if direction == "bidirectional" else 1
    g = G[op]
    r = lambda *s, sc=1.0: (rng.standard_normal(s) * sc).astype(np.float32)
    t = {"X": r(T, B, I), "W": r(Dn, g * H, I, sc=1 / np.sqrt(I)), "R": r(Dn, g * H, H, sc=1 / np.sqrt(H))}
    if bias:
        t["B"] = r(Dn, 2 * g * H, sc=0.3)
    if lens is not None:
        t["sequence_lens"] = np.array(lens, np.int32)
    if init:
        t["initial_h"] = r(Dn, B, H, sc=0.5)
        if op == "LSTM":
            t["initial_c"] = r(Dn, B, H, sc=0.5)
    if peep:
        t["P"] = r(Dn, 3 * H, sc=0.4)
    slots = IN if op == "LSTM" else IN[:6]
    ins = [s if s in t else "" for s in slots]
    while ins and ins[-1] == "":
        ins.pop()
    outs = OUT if op == "LSTM" else OUT[:2]
    at = dict(hidden_size=H, **({"direction": direction} if direction != "forward" else {}), **attrs)
    node = helper.make_node(op, ins, outs, **at)
    vi = [
        helper.make_tensor_value_info(
            k, TensorProto.INT32 if k == "sequence_lens" else TensorProto.FLOAT, list(v.shape)
        )
        for k, v in t.items()
    ]
    vo = [helper.make_tensor_value_info(k, TensorProto.FLOAT, None) for k in outs]
    mod = helper.make_model(
        helper.make_graph([node], "g", vi, vo), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    so = ort.SessionOptions()
    so.intra_op_num_threads = 1
    res = ort.InferenceSession(mod.SerializeToString(), so, providers=["CPUExecutionProvider"]).run(None, t)
    for k, v in zip(outs, res):
        t["expect." + k] = v
    w.add(
        name,
        t,
        meta(
            op,
            at,
            t["X"],
            H,
            Dn,
            f"onnxruntime {ort.__version__} cpu float32",
            dict(tol=dict(fwd_abs=3e-5, fwd_rel=1e-4)),
        ),
    )


DIM = (5, 3, 4, 6)
LEN = [5, 2, 3]
if __name__ == "__main__":
    w = Writer("onnxrt")
    d = DIM
    ln = LEN
    for op in ("RNN", "LSTM", "GRU"):
        lo = op.lower()
        for dr in ("forward", "reverse", "bidirectional"):
            run(w, f"{lo}_{dr}", op, *d, direction=dr)
            run(w, f"{lo}_{dr}_lens", op, *d, direction=dr, lens=ln)
        run(w, f"{lo}_nobias_zero_init", op, *d, bias=False, init=False)
        run(w, f"{lo}_clip", op, *d, clip=0.6)
    for act in ("Relu", "Sigmoid", "Softsign", "Softplus"):
        run(w, f"rnn_{act.lower()}", "RNN", *d, activations=[act])
    run(w, "rnn_bi_tanh_relu", "RNN", *d, direction="bidirectional", activations=["Tanh", "Relu"])
    run(w, "rnn_leakyrelu", "RNN", *d, activations=["LeakyRelu"], activation_alpha=[0.1])
    run(w, "lstm_peephole", "LSTM", *d, peep=True)
    run(w, "lstm_peephole_bi_lens", "LSTM", *d, peep=True, direction="bidirectional", lens=ln)
    run(w, "lstm_input_forget", "LSTM", *d, input_forget=1)
    run(w, "lstm_all_sigmoid", "LSTM", *d, activations=["Sigmoid", "Sigmoid", "Sigmoid"])
    run(
        w,
        "lstm_hardsigmoid",
        "LSTM",
        *d,
        activations=["HardSigmoid", "Tanh", "Tanh"],
        activation_alpha=[0.2],
        activation_beta=[0.5],
    )
    run(
        w,
        "lstm_bi_mixed",
        "LSTM",
        *d,
        direction="bidirectional",
        activations=["Sigmoid", "Tanh", "Relu", "HardSigmoid", "Softsign", "Tanh"],
        activation_alpha=[0.2],
        activation_beta=[0.5],
    )
    for lbr in (0, 1):
        run(w, f"gru_lbr{lbr}", "GRU", *d, linear_before_reset=lbr)
        run(w, f"gru_lbr{lbr}_bi_lens", "GRU", *d, linear_before_reset=lbr, direction="bidirectional", lens=ln)
        run(w, f"gru_lbr{lbr}_all_sigmoid", "GRU", *d, linear_before_reset=lbr, activations=["Sigmoid", "Sigmoid"])
        run(
            w,
            f"gru_lbr{lbr}_hardsigmoid_relu",
            "GRU",
            *d,
            linear_before_reset=lbr,
            activations=["HardSigmoid", "Relu"],
            activation_alpha=[0.2],
            activation_beta=[0.5],
        )
    w.close()
