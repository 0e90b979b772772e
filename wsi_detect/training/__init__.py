"""From batches to weights. The only room that knows Lightning."""
