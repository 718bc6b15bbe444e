"""From files to tensors: mapping, streaming, buffers."""
