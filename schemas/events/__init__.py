"""The data of each event type. An event is a past fact."""
