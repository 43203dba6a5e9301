"""What leaves the device, and how: MQTT, a webhook, a file."""
