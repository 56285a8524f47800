"""The same small network as the other sides, trained with numpy under Flower."""
