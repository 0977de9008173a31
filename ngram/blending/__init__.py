"""How several predictors become one: the gate, its fit, and the product of two experts."""
