"""What keeps a module correct while its user trains it: exchanged contents, optimizer state, masks."""
