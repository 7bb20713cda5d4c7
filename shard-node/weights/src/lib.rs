//! Model files without a tensor library: safetensors, GGUF, dequantisation, manifests.
