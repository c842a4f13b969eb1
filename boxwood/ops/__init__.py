"""Pure functions on tensors: no module, no configuration, no state."""
