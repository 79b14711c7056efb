"""Merges fragments/manifest.<kind>.json into manifest.json, with each file's sha256. The entries of the kinds `silero` and `real`,
which no generator here makes, are kept from the manifest that is there."""

import hashlib, json, os
from common import ROOT

ORDER = ["torch", "train", "keras", "lecture", "onnxrt", "silero", "real"]
ABOUT = (
    "Every tensor file is safetensors; F32 or I32; see each case's layout, gate_order, note, tol. fwd_abs: max |got-expected|. "
    "grad_rel_to_max: max|got-expected| / max(1e-3,max|expected|) per gradient tensor."
)

path = os.path.join(ROOT, "manifest.json")
old = json.load(open(path))["cases"] if os.path.exists(path) else []
cases = []
for kind in ORDER:
    fragment = os.path.join(ROOT, "fragments", f"manifest.{kind}.json")
    cases += json.load(open(fragment)) if os.path.exists(fragment) else [c for c in old if c["kind"] == kind]
for case in cases:
    case["sha256"] = hashlib.sha256(open(os.path.join(ROOT, case["file"]), "rb").read()).hexdigest()
with open(path, "w") as f:
    lines = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    f.write(json.dumps(dict(format=1, about=ABOUT))[:-1] + f', "cases": [\n{lines}\n]}}\n')
print(len(cases), "cases")
