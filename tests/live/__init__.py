"""One whole Switchboard, started once for all tests that need one, and the means to ask it and look into it."""
