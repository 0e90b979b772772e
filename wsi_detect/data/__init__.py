"""Store and labels → training batches: the patch index, splits, targets, augmentation, samplers, the loader."""
