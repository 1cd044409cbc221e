"""Where in time and frequency a recording departs from normal."""
