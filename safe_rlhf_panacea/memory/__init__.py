"""What a training will hold on each card, said before any card is rented."""
