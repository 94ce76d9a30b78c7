"""What a network reads: recorded, summed up, drawn."""
