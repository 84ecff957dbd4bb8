"""From labelled pictures on a disk to batches of tensors."""
