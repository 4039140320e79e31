"""From one wire format to another: a file for each pair, and for what an engine leaves to mend."""
