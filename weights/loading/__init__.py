"""From files to tensors: mapped or streamed, in the order of the decoder."""
