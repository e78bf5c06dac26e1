"""What a graph takes on the machine at hand: time, and memory, energy and operations beside it."""
