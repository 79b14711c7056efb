//! Lines of Python that turn a file that is not read into one that is.

/// Saves the weights of a whole module; `index` leads to the module in its checkpoint.
pub(super) fn module(index: &str) -> String {
    format!(
        "in Python, where the class can be imported: import torch; torch.save(torch.load(\"model.pt\", map_location=\"cpu\", \
         weights_only=False){index}.state_dict(), \"weights.pt\")"
    )
}

/// Saves the weights of a TorchScript module.
pub(super) const SCRIPT: &str = "in Python: import torch; torch.save(torch.jit.load(\"model.pt\", \
    map_location=\"cpu\").state_dict(), \"weights.pt\")";
