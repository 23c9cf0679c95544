"""Three small products: a support desk, a monitor of opinions, a recommender."""
