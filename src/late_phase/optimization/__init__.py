"""How weights move: optimizers by name, and the learning rate over time."""
