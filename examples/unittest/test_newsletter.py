import unittest

from newsletter import publish

from orchestrator.testing import MailBed


class NewsletterTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bed = cls.enterClassContext(MailBed())

    def setUp(self):
        self.bed.begin()  # mail of earlier tests does not count

    def publish(self, *readers, sender="editor@example.org"):
        relay = self.bed.relay
        publish("Spring is here.", readers, sender=sender, smtp_host=relay.host, smtp_port=relay.port)

    def test_each_reader_gets_the_issue_with_a_way_out(self):
        ann, bob = self.bed.mailbox(), self.bed.mailbox()
        self.publish(ann, bob)
        for message in self.bed.inbox.wait_for_all({"to": ann}, {"to": bob}):
            self.assertIn("Spring", message.text)
            self.assertIn(message.recipients[0], message.headers["List-Unsubscribe"])

    def test_a_reader_who_has_left_is_reported_to_the_editor(self):
        editor, reader = self.bed.mailbox(), self.bed.mailbox()
        with reader.reject("550 5.1.1 No such user"):
            self.publish(reader, sender=editor)
            report = editor.wait_for(subject="Undelivered")
        self.assertIn(f"<{reader}>: host", report.text)
        self.assertEqual(report.sender, "")
        reader.expect_none()


if __name__ == "__main__":
    unittest.main()
