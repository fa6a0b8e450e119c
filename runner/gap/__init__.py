"""Why the free-running loss is not the validation loss: losses, forecasts to compare, and the walk between them."""
