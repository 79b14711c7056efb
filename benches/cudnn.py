"""Times PyTorch's recurrent layers on cuDNN, on the shapes of a file of `gatewise bench --json` lines; prints the same kind of lines.

Times are of forward inference with input and state on the GPU. `median_ms` runs from the call to the end of the work as the host sees it. `on_device_ms`
lies between two CUDA events. `graph_ms` is the time of the call as a CUDA graph, if cuDNN allows it. float32 does not use TF32.
"""

import argparse
import json
import statistics
import time

import torch


def layer(shape, dtype):
    kind = shape["cell"]
    cells = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    options = dict(num_layers=shape["layers"], bidirectional=shape["directions"] == 2)
    if kind in cells:
        net = cells[kind](shape["I"], shape["H"], **options)
    else:
        net = torch.nn.RNN(shape["I"], shape["H"], nonlinearity="relu" if kind.endswith("relu") else "tanh", **options)
    return net.to("cuda", dtype).eval()


def timed(run, budget_ms, least=5):
    """Medians by the host's clock and by the device's, and the number of runs."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    wall, device, begin = [], [], time.perf_counter()
    while len(wall) < least or (time.perf_counter() - begin) * 1e3 < budget_ms:
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start = time.perf_counter()
        before.record()
        run()
        after.record()
        torch.cuda.synchronize()
        wall.append((time.perf_counter() - start) * 1e3)
        device.append(before.elapsed_time(after))
        if len(wall) >= 10000:
            break
    return statistics.median(wall), statistics.median(device), len(wall)


def graphed(net, x, budget_ms):
    """Median by the device's clock with the call as a CUDA graph; None where it cannot be captured."""
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                net(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            net(x)
        return timed(graph.replay, budget_ms)[1]
    except RuntimeError:
        torch.cuda.synchronize()
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", help="what `gatewise bench --json` printed")
    parser.add_argument("--budget-ms", type=float, default=200.0)
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    facts = {
        "device": "cudnn",
        "adapter": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
    }
    seen = set()
    with open(arguments.lines, encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if line.get("device") != "gpu" or "median_ms" not in line or line["shape"] in seen:
                continue
            seen.add(line["shape"])
            shape = {name: line[name] for name in ("shape", "cell", "I", "H", "layers", "directions", "T", "B")}
            for name, dtype in (("f32", torch.float32), ("f16", torch.float16)):
                with torch.inference_mode():
                    net = layer(shape, dtype)
                    x = torch.randn(shape["T"], shape["B"], shape["I"], device="cuda", dtype=dtype)
                    wall, device, runs = timed(lambda: net(x), arguments.budget_ms)
                    graph = graphed(net, x, arguments.budget_ms)
                times = {"median_ms": wall, "on_device_ms": device, "graph_ms": graph, "runs": runs}
                print(json.dumps({**shape, "dtype": name, **facts, **times}), flush=True)


if __name__ == "__main__":
    main()
