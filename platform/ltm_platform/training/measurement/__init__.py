"""What is measured of a network: accuracy, speed, memory."""
