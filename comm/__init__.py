"""What the programs share between ranks. Knows no problem and no trace file."""
