"""For people: one self-contained page a slide, and the curves of a training."""
