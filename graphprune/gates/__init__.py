"""Gates: one factor per channel, where the channel's consumers see it."""
