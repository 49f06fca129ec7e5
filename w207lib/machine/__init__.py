"""What the machine has: devices, memory, precision."""
