"""Shared helpers of the generators of golden cases.

Every generator writes safetensors files and one fragment, fragments/manifest.<kind>.json, into the folder above;
manifest.py merges the fragments.

All tensors are F32 (lengths/labels/ids: I32), C-contiguous.  Expected values are computed
in float64 from the F32-rounded inputs and weights and then rounded once to F32
(except where the oracle is an f32-only engine: onnxruntime; said in "oracle").
"""

import json, os, hashlib
import numpy as np
from safetensors.numpy import save_file

ROOT = os.environ.get("GOLDEN", os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def f32(a):
    return np.ascontiguousarray(np.asarray(a, dtype=np.float64).astype(np.float32))


def seed_of(name):
    return int.from_bytes(hashlib.sha256(("open/" + name).encode()).digest()[:4], "little")


class Writer:
    """Collects the cases of one kind and writes them."""

    def __init__(self, kind):
        self.kind, self.cases, self.dir = kind, [], ROOT

    def add(self, name, tensors, meta):
        out = {}
        for k, v in tensors.items():
            v = np.asarray(v)
            if v.dtype.kind in "iu" or v.dtype == bool:
                v = np.ascontiguousarray(v.astype(np.int32))
            else:
                v = f32(v)
            assert v.size == 0 or np.isfinite(v.astype(np.float64)).all(), (name, k)
            if v.ndim == 0:
                v = v.reshape(1)
            out[k] = v
        fn = f"{self.kind}__{name}.safetensors"
        save_file(out, os.path.join(self.dir, fn))
        case = {"name": name, "kind": self.kind, "file": fn}
        case.update(meta)
        case["tensors"] = {
            k: {"dtype": "I32" if v.dtype == np.int32 else "F32", "shape": list(v.shape)} for k, v in out.items()
        }
        self.cases.append(case)

    def close(self):
        os.makedirs(os.path.join(ROOT, "fragments"), exist_ok=True)
        with open(os.path.join(ROOT, "fragments", f"manifest.{self.kind}.json"), "w") as f:
            json.dump(self.cases, f, indent=1)
        n = sum(os.path.getsize(os.path.join(self.dir, c["file"])) for c in self.cases)
        print(f"{self.kind:10s} {len(self.cases):4d} cases {n/1024:8.1f} KiB")
